"""Rules of Flask, and what plans list for them: each with a path that it matches."""

from werkzeug.routing import BaseConverter


class Colour(BaseConverter):
    """A converter of an application's own."""

    regex = "red|blue"


RULES = [
    ("/plain", "/plain", "/plain"),
    ("/int/<int:id>", "/int/{id}", "/int/5"),
    ("/any/<any(a,b):x>", "/any/{x}", "/any/b"),
    ("/any-text/<any('a-b', c):x>", "/any-text/{x}", "/any-text/a-b"),
    ("/any-colon/<any('a:b', c):x>", "/any-colon/{x}", "/any-colon/a:b"),
    ("/float/<float(min=1.0, signed=True):f>", "/float/{f}", "/float/2.5"),
    ("/string/<string(length=2):l>", "/string/{l}", "/string/xy"),
    ("/path/<path:p>", "/path/{p}", "/path/a/b/c"),
    ("/path/<path:p>/end", "/path/{p}/end", "/path/a/b/end"),
    ("/x<k>y", "/x{k}y", "/xKy"),
    ("/<a>-<b>.txt", "/{a}-{b}.txt", "/one-two.txt"),
    ("/uuid/<uuid:u>/<name>", "/uuid/{u}/{name}", "/uuid/12345678-1234-5678-1234-567812345678/n"),
    ("/colour/<colour:c>", "/colour/{c}", "/colour/red"),
    ("/colour/<colour('x'):c>/shade", "/colour/{c}/shade", "/colour/blue/shade"),
    ("/both/<x>/<int:y>", "/both/{x}/{y}", "/both/1/2"),
    ("/slash/", "/slash/", "/slash/"),
]
"""Rule, template, path."""
