"""What `hwnas spaces` prints where numbers are larger than a float can be."""

from pipelines.listing import list_spaces, print_spaces


def test_a_space_of_more_rows_than_a_float_can_count(capsys):
    """18 x 7^998 rows: log10 18 + 998 log10 7 = 844.6632, and 10^0.6632 = 4.604."""
    name = "proxyless@8,8x1,8x999,8"
    outcome = list_spaces([name])
    assert outcome["spaces"][0]["cardinality"] == 18 * 7**998
    print_spaces(outcome)
    assert capsys.readouterr().out.split()[:3] == [name, "4.60e+844", "rows"]
