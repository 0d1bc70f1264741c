import sys, pytest
import test_denial_cache_seeded as seeded
import test_denial_cache_histories as h
from conftest import *
BUGS = [b for b in seeded.TRACES + seeded.BUGS if b[0] in ("1","2","3","4","8","9","10","11","12")]
@pytest.mark.parametrize("bug", BUGS, ids=[b[0] for b in BUGS])
def test_power(running, monkeypatch, bug):
    name, module, test, *changes = bug
    seeded.put_in(monkeypatch, module, *changes)
    found = []
    with running["valkey"].client() as client:
        for what, run in (("one", lambda: h.test_no_answer_is_too_strict(client,1,False,250,-1,-1)),):
            try:
                run()
            except BaseException as e:
                found.append((what, type(e).__name__))
                break
    print("POWER", name, found)
