from threedgen import registry
from threedgen.config.explain import explain
from threedgen.config.keys import Key, keys
from threedgen.config.sections import Section, sections
from threedgen.config.values import allowed

KEYS = list(keys())


def telling(key: Key, told: list[Section]) -> list[Key]:
    """The rows that tell a variant's key: of its own section, of another variant's, of a common one."""
    fits = [section for section in told if section.group == key.group and (not section.kind or key.variant in section.variants)]
    fits.sort(key=lambda section: (section.own != key.variant, not section.own))
    return [row for section in fits for row in section.keys if row.name == key.name]


def test_every_key_is_told_with_its_default_and_range():
    told = sections(KEYS)
    for key in KEYS:
        row = telling(key, told)[0]
        assert (row.default, allowed(row)) == (key.default, allowed(key)), key


def test_no_guidance_repeats_what_it_shares():
    told = [section for section in sections(KEYS) if section.kind == "guidance"]
    common = {row.name: row for section in told if not section.own for row in section.keys}
    assert {"t_min", "cfg", "weight", "space"} <= set(common)
    for section in told:
        for row in section.keys if section.own else ():
            shared = common.get(row.name)
            assert shared is None or (shared.default, allowed(shared)) != (row.default, allowed(row)), (section.own, row.name)
    assert sum(len(section.keys) for section in told) < 0.3 * sum(key.kind == "guidance" for key in KEYS)


def test_what_a_guidance_inherits_from_another_is_told_there():
    told = {section.own: section for section in sections(KEYS) if section.kind == "guidance" and section.own}
    assert told["vsd"].who == "guidance vsd, adversarial_sd, esd"
    assert [row.name for row in told["esd"].keys] == ["critic_cfg"]
    assert "csm" not in told
    assert "csm" in told["ism"].variants


def test_common_keys_say_who_lacks_them():
    common = [section.who for section in sections(KEYS) if section.kind == "guidance" and not section.own]
    assert common == ["guidance of every type but images", "guidance of every type but im3d, images"]
    assert {section.who for section in sections(KEYS) if not section.kind} == {""}


def test_a_guidance_on_its_own_has_all_its_keys_its_own_first():
    for name in registry.names("guidance"):
        told = sections(explain(f"{name}"))
        rows = [row for section in told if section.kind for row in section.keys]
        assert len(rows) == len({row.name for row in rows})
        assert {(row.name, str(row.default)) for row in rows} == {(key.name, str(key.default)) for key in KEYS if key.variant == name}
    assert sections(explain("esd"))[0].own == "esd"


def test_one_key_is_told_once_and_where_it_differs():
    assert [section.own for section in sections(explain("cfg"))][:2] == ["", "cds"]
    [delta] = sections(explain("delta"))
    assert delta.who == "guidance ism, csm"
