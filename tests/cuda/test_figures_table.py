"""The committed table of the CUDA kernels' machine code belongs to the sources and keeps the rules."""

from benchmarks.cuda_figures import rules, table

ARCHITECTURES = {"80", "86", "89", "90a", "100", "120"}


def test_the_table_is_that_of_the_sources():
    _, sources, _ = table.load()
    assert sources == table.sources_digest(), "the kernels have changed since `make cuda-figures` made the table"


def test_a_comment_makes_no_table_anew():
    assert table.code_of("int a = 1; // one\n/* and\n two */ int b;") == table.code_of("int a = 1;\n  int b;\n")
    host = "#ifdef KERNELDNA_HOST_EXECUTION\n{}\n#endif\n"
    assert table.code_of(host.format("int a;")) == table.code_of(host.format("int b;"))
    assert table.code_of("int a = 1;") != table.code_of("int a = 2;")


def test_the_table_has_every_kernel_for_every_architecture():
    _, _, rows = table.load()
    assert {row["arch"] for row in rows} == ARCHITECTURES
    assert list(rules.missing(rows)) == []


def test_the_table_keeps_the_rules():
    _, _, rows = table.load()
    assert [sentence for row in rows for sentence in rules.violations(row)] == []
    assert any(row["kernel"].startswith(rules.TENSOR_KERNELS) and row["mma"] for row in rows)


def test_the_table_for_people_is_that_of_the_rows():
    cuda, _, rows = table.load()
    assert table.MARKDOWN.read_text() == table.markdown(cuda, rows)
