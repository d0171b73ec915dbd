from tests.support.reference import PAGE, page


def test_the_agents_reference_lists_every_setting_as_declared() -> None:
    assert PAGE.read_text(encoding="utf-8") == page()
