"""What is never shown: values of keys in names, copies and tracebacks; what a terminal or a spreadsheet would obey."""

import copy
import csv
import dataclasses
import io
import json
import pickle
import traceback
from datetime import date

import pytest
from helpers.commands import run
from helpers.proxy import Proxy
from helpers.replica import METHOD, STAGE

from ratelimit import ApiKey, ConfigError, Limiter, Stage, StoreError, UsagePlan, validation
from ratelimit.admin import keys as key_admin
from ratelimit.admin.aws import convert
from ratelimit.admin.aws.shapes import AwsExport
from ratelimit.admin.csv.format import RowWarning as Warned
from ratelimit.admin.csv.format import exported_rows, read
from ratelimit.admin.usage import Usage
from ratelimit.cli.commands import usage
from ratelimit.registry.key_values import generated_value
from ratelimit.registry.windows import day_of

VALUE = "rl_live_" + "a1B2c3D4e5F6" * 3
TOLD = "holds an API key's value, which is stored nowhere: take it out"


@pytest.fixture
def catalog(server):
    with Limiter.from_url(server.url, deadline=5) as limiter:
        yield limiter.catalog


class TestValuesInNames:
    @pytest.mark.parametrize(
        ("about", "field"),
        [
            ({"name": VALUE}, "name"),
            ({"name": f"the key {VALUE}!"}, "name"),
            ({"owner": VALUE}, "owner"),
            ({"description": f"was {VALUE}"}, "description"),
            ({"tags": {VALUE: "x"}}, "tags"),
            ({"tags": {"x": VALUE}}, "tags.x"),
            ({"tags": {VALUE: VALUE}}, "tags"),
        ],
    )
    def test_of_a_key(self, catalog, about, field):
        """Neither made nor changed with one; the error does not show it."""
        key = catalog.create_key("good")
        for change in (lambda: catalog.create_key(**about), lambda: catalog.update_key(key.id, **about)):
            with pytest.raises(ConfigError) as caught:
                change()
            assert (caught.value.problem, caught.value.field) == (TOLD, field)
            assert VALUE[:20] not in "".join(traceback.format_exception(caught.value))
        (stored,) = catalog.keys("")
        assert stored.name == "good"

    @pytest.mark.parametrize(
        "make",
        [
            lambda: UsagePlan("p", name=VALUE),
            lambda: UsagePlan(VALUE),
            lambda: UsagePlan("p", stages=[f"{VALUE}/b"]),
            lambda: Stage(f"a/{VALUE}"),
            lambda: Stage("a/b", methods={f"GET /{VALUE}": None}),
            lambda: validation.namespace(VALUE),
        ],
    )
    def test_of_anything_else(self, make):
        """Ids, names of plans and methods, namespaces."""
        with pytest.raises(ConfigError) as caught:
            make()
        assert caught.value.problem == TOLD
        assert VALUE not in str(caught.value)

    def test_of_a_csv_file(self):
        """A warning, as where columns are mixed up."""
        lines = f"Key,Name,Description\nown-value-0123456789,{VALUE},\n{VALUE},one,was {VALUE}\n{VALUE},two,\n"
        rows = list(read(io.BytesIO(lines.encode()), "keys.csv"))
        assert rows[:2] == [Warned(2, f"Name {TOLD}"), Warned(3, f"Description {TOLD}")]
        assert rows[2].name == "two"

    def test_of_an_export_of_aws(self):
        """It is taken out, with a note."""
        record = {"id": "k1", "value": "own-value-0123456789", "name": f"was {VALUE}", "enabled": True}
        catalogue = convert(AwsExport(keys=({**record, "customerId": VALUE, "tags": {"a": VALUE}},)))
        (key,) = catalogue.keys
        assert (key.name, key.owner, key.tags) == (
            "was rl_live_... (an API key's value)",
            "rl_live_... (an API key's value)",
            {},
        )
        notes = [note.why for note in catalogue.notes]
        assert "its name held an API key's value, which is taken out" in notes
        assert f"its tags are not carried over: {TOLD}" in notes
        assert VALUE not in repr(notes)

    def test_on_the_command_line(self, server):
        """Exit code 2, and no key."""
        for arguments in (
            (VALUE,),
            ("x", "--owner", VALUE),
            ("x", "--tag", f"{VALUE}=1"),
            ("x", "--tag", f"a={VALUE}"),
        ):
            result = run("keys", "create", *arguments, RATELIMIT_URL=server.url)
            assert (result.exit_code, result.stdout) == (2, "")
            assert TOLD in result.stderr
            assert VALUE not in result.stderr
        assert run("keys", "list", RATELIMIT_URL=server.url).stdout == "No keys.\n"


class TestFreshKeys:
    def test_no_copy_has_the_value(self, catalog):
        """`value` gives it this once; pickle, copies, asdict, replace, repr and fields do not."""
        for key in (catalog.create_key("me"), ApiKey("k1", "me", value=VALUE)):
            assert isinstance(key.value, str)
            secret = key.value
            copies = [
                pickle.loads(pickle.dumps(key)),
                copy.copy(key),
                copy.deepcopy(key),
                dataclasses.replace(key),
                dataclasses.replace(key, name="you"),
            ]
            assert [each.value for each in copies] == [None] * 5
            assert copies[:4] == [key] * 4
            texts = [pickle.dumps(key).decode("latin-1"), repr(key), repr(dataclasses.asdict(key))]
            texts += [repr(dataclasses.astuple(key)), repr(copies), json.dumps(dataclasses.asdict(key), default=repr)]
            assert [secret in text for text in texts] == [False] * 6
            assert "value" not in {field.name for field in dataclasses.fields(key)}
            assert key.value == secret

    def test_it_is_as_frozen_as_before(self):
        """With the same arguments in the same order, and nothing to assign."""
        key = ApiKey("k", "n", False, ("p",), 1.0, 2.0, "d", "o", {"a": "b"}, VALUE, "r")  # noqa: FBT003
        assert key == ApiKey("k", "n", False, ("p",), 1.0, 2.0, "d", "o", {"a": "b"})  # noqa: FBT003
        assert (key.value, key.revision) == (VALUE, "r")
        assert not hasattr(key, "__dict__")
        with pytest.raises(dataclasses.FrozenInstanceError):
            key.name = "m"
        with pytest.raises((AttributeError, TypeError)):  # TypeError is Python's own, of slots and super()
            key.value = "m"
        assert key.value == VALUE
        with pytest.raises(TypeError):
            dataclasses.replace(key, value=VALUE, nonsense=1)

    @pytest.mark.parametrize("change", ["create_key", "rotate_key"])
    def test_no_local_variable_shows_it(self, server, catalog, monkeypatch, change):
        """A traceback with the local variables of every frame, of a change whose answer was lost."""
        key = catalog.create_key("me")
        made = generated_value()
        monkeypatch.setattr(key_admin, "generated_value", lambda: made)
        with Proxy(server.socket) as proxy, Limiter.from_url(proxy.url, deadline=1) as limiter:
            limiter.catalog.keys()
            proxy.fault = "reset"
            with pytest.raises(StoreError) as caught:
                getattr(limiter.catalog, change)(*([] if change == "create_key" else [key.id]))
        frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
        assert change in {frame.f_code.co_name for frame in frames}
        ours = [frame for frame in frames if "ratelimit" in frame.f_globals["__name__"].split(".")]
        assert len(ours) > 3
        assert [name for frame in ours for name, held in frame.f_locals.items() if made in repr(held)] == []
        assert any("Secret(...)" in repr(frame.f_locals) for frame in ours)


class TestMoments:
    @pytest.mark.parametrize("moment", [1e-300, 5e-324, 4e-7, 5e-7])
    def test_an_expiry_that_rounds_to_never(self, catalog, moment):
        """A key that was to expire at once must not live for ever."""
        with pytest.raises(ConfigError, match="expires_at: must be at least a microsecond after 1970, not"):
            catalog.create_key(expires_at=moment)
        assert catalog.create_key(expires_at=1e-6).expires_at == 1e-6

    @pytest.mark.parametrize("command", [("watch", "--seconds"), ("top", "--every"), ("demo", "--seconds")])
    @pytest.mark.parametrize("seconds", ["nan", "-nan", "inf", "-inf", "1e999", "-1", "0"])
    def test_seconds_that_are_none(self, command, seconds):
        """They would never end."""
        result = run(*command, seconds, RATELIMIT_URL="unix:///nowhere/no.sock")
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"Invalid value for '{command[1]}'" in result.stderr

    @pytest.mark.parametrize("option", ["--from", "--to"])
    @pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31", "1969-12-31", "2200-01-01"])
    def test_a_day_far_away(self, server, option, day):
        """Exit code 2, before the server is asked."""
        result = run("usage", "gold", option, day, RATELIMIT_URL=server.url)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"'{day}' is not a day from 1970 to 2199" in result.stderr

    def test_the_first_day(self, server):
        """Fourteen days up to it are not asked for."""
        assert run("plans", "put", "gold", "--stage", STAGE, RATELIMIT_URL=server.url).exit_code == 0
        result = run("usage", "gold", "--to", "1970-01-02", "--json", RATELIMIT_URL=server.url)
        assert result.exit_code == 0
        assert json.loads(result.stdout)["from"] == "1970-01-01"


ESCAPE = "\x1b[31m"
SHOWN = r"\x1b[31m"


class TestTerminals:
    @pytest.fixture
    def odd(self, server, catalog):
        """A key whose id in Redis would colour a terminal."""
        catalog.put_plan(UsagePlan("gold", stages=[STAGE]))
        key = catalog.create_key("one", plans=["gold"])
        odd_id = f"odd{ESCAPE}"
        with server.client() as client:
            record = json.loads(client.get(f"ratelimit:{{{key.id}}}:record"))
            client.set(f"ratelimit:{{{odd_id}}}:record", json.dumps({**record, "id": odd_id, "owner": f"o{ESCAPE}"}))
            client.zadd("{ratelimit}:keys", {odd_id: 1})
            client.sadd("{ratelimit}:plan:gold:keys", odd_id)
            today = day_of(client.time()[0] * 1_000_000)
            client.hset(f"ratelimit:denials:{today}", f"gold|{odd_id}|THROTTLED", 3)
        return odd_id

    @pytest.mark.parametrize(
        "command",
        [
            ("keys", "list"),
            ("keys", "export"),
            ("usage", "gold"),
            ("usage", "gold", "--csv"),
            ("top", "--once"),
        ],
    )
    def test_ids_that_are_garbage(self, server, odd, command):
        """Spelled out wherever they are shown."""
        result = run(*command, RATELIMIT_URL=server.url)
        assert result.exit_code == 0
        assert "\x1b" not in result.output
        assert (f"odd{SHOWN}" in result.output) == (command != ("usage", "gold"))

    def test_a_table_and_a_message(self, capsys):
        """Every text of a console and of a table, line by line."""
        from ratelimit.cli import output

        table = output.table("a")
        table.add_row(f"one{ESCAPE}\ntwo\udc80")
        output.console().print(table)
        output.console().print(f"x{ESCAPE}\ny")
        output.console(stderr=True).print(f"z{ESCAPE}")
        output.print_fields({"a": f"b{ESCAPE}"})
        captured = capsys.readouterr()
        assert "\x1b" not in captured.out + captured.err
        for part in (f"one{SHOWN}", "two\\udc80", f"x{SHOWN}\ny", f"b{SHOWN}"):
            assert part in captured.out
        assert captured.err == f"z{SHOWN}\n"

    @pytest.mark.parametrize(
        "command",
        [
            [f"--{ESCAPE}"],
            [f"no{ESCAPE}"],
            ["keys", f"no{ESCAPE}"],
            ["keys", "list", f"--no{ESCAPE}"],
            ["keys", "list", "--limit", f"1{ESCAPE}"],
            ["apply", f"no{ESCAPE}.toml"],
            ["replay", f"no{ESCAPE}", "--plan", f"no{ESCAPE}"],
            ["import-aws", f"no{ESCAPE}"],
            ["check", "k", STAGE, f"{ESCAPE}"],
            ["usage", "gold", "--from", ESCAPE],
            ["keys", "create", "--tag", ESCAPE],
            ["keys", "create", "--expires", ESCAPE],
            ["check", "k", STAGE, METHOD, "--url", f"unix:///tmp/{ESCAPE}"],
            ["check", "k", STAGE, METHOD, "--url", "unix:///tmp/%1b[31m"],
            ["plans", "list", "--url", "unix:///tmp/%1b[31m"],
            ["plans", "list", "--namespace", ESCAPE],
        ],
    )
    def test_what_was_typed(self, command):
        """Also where the command line itself cannot be read."""
        result = run(*command)
        assert result.exit_code in {2, 3}
        assert "\x1b" not in result.output
        assert isinstance(result.exception, SystemExit)

    def test_a_name_of_a_file_that_is_no_text(self, tmp_path, server):
        """Bytes that are no UTF-8, as a shell passes them on."""
        plans = tmp_path / "plans\udc80.toml"
        plans.write_text(f'[plans.gold]\nstages = ["{STAGE}"]\n')
        for _ in range(2):
            result = run("apply", str(plans), RATELIMIT_URL=server.url)
            assert result.exit_code == 0, result.output
        assert "plans\\udc80.toml already." in result.stdout.replace("\n", "")

    @pytest.mark.parametrize("option", ["--group", "--consumer"])
    @pytest.mark.parametrize("name", ["\udc80", ESCAPE, "x" * 300])
    def test_a_group_that_is_no_text(self, server, option, name):
        """Half a character cannot be sent."""
        arguments = ["--group", "g", "--consumer", name] if option == "--consumer" else ["--group", name]
        result = run("watch", "--seconds", "0.1", *arguments, RATELIMIT_URL=server.url)
        assert (result.exit_code, result.stdout) == (2, "")
        assert result.stderr.startswith(f"Error: {option}: ")


class TestSpreadsheets:
    FIRST = ("=", "+", "-", "@", "\t", "\r", "\n", *map(chr, (0xFF1D, 0xFF0B, 0xFF0D, 0xFF20)))

    @pytest.mark.parametrize("first", FIRST)
    def test_no_cell_is_a_formula(self, capsys, first):
        """Of keys and of usage: full-width characters are taken for the narrow ones by some."""
        text = f"{first}1+1"
        key = ApiKey("k1", text, owner=text, description=text)
        cells = next(csv.reader(io.StringIO(exported_rows([key]))))
        assert [cell for cell in cells if "1+1" in cell] == [validation.printable(f"'{text}")] * 3
        page = Usage("gold", *(date(2026, 3, 4),) * 2, {"k1": [(1, 2)]}, {"k1": [{}]})
        usage.print_csv([page], {"k1": key})
        row = capsys.readouterr().out.splitlines()[1]
        assert next(csv.reader([row]))[2:4] == [validation.printable(f"'{text}")] * 2
