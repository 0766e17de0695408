"""The README shows the measurements that are committed, all of them."""

from benchmarks import readme


def test_its_tables_are_those_of_the_results():
    text = readme.README.read_text()
    assert sorted(readme.marked(text)) == sorted(readme.TABLES)
    assert readme.rendered(text) == text, "run `python -m benchmarks.readme`"
