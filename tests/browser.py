"""Opens a page in a real browser (the Chromium of QtWebEngine, without a screen) and prints what it
shows as JSON: `python tests/browser.py PAGE`. A process of its own: Qt wants the main thread."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ |= {
    "QT_QPA_PLATFORM": "offscreen",
    "QTWEBENGINE_DISABLE_SANDBOX": "1",  # a container's root has none
    "QTWEBENGINE_CHROMIUM_FLAGS": "--disable-gpu",
}

from PyQt6.QtCore import QTimer, QUrl
from PyQt6.QtWebEngineCore import QWebEnginePage
from PyQt6.QtWebEngineWidgets import QWebEngineView
from PyQt6.QtWidgets import QApplication

SECONDS = 100
SIZE = (1200, 900)

# What a reader sees and does: the equations have a size, the pictures are decoded, words in the
# search field and families filter, the theme's button changes colours.
LOOK = """
(function () {
  var all = function (what) { return Array.from(document.querySelectorAll(what)); };
  var shown = function () { return all(".card").filter(function (c) { return c.offsetHeight > 0; })
                            .map(function (c) { return c.id; }); };
  var say = function (id, value, kind) {
    var field = document.getElementById(id);
    field.value = value;
    field.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  var found = {title: document.title, cards: shown().length, ratios: all(".ratio").length};
  found.flat = all("math").filter(function (m) {
    var box = m.getBoundingClientRect();
    return box.width < 5 || box.height < 5;
  }).length;
  found.equations = all("math").length;
  found.fraction = all("mfrac").some(function (f) {
    return f.getBoundingClientRect().height > 20;
  });
  found.pictures = all("img.mask").filter(function (i) { return i.naturalWidth >= 16; }).length;
  found.width = [document.documentElement.scrollWidth, document.documentElement.clientWidth];
  say("search", "xiao sinks", "input");
  found.searched = shown();
  found.count = document.getElementById("count").textContent;
  say("search", "no such words", "input");
  found.none = document.getElementById("none").offsetHeight > 0;
  say("search", "", "input");
  say("family", "window", "change");
  found.family = shown();
  var before = getComputedStyle(document.body).backgroundColor;
  document.getElementById("theme").click();
  found.themes = [before, getComputedStyle(document.body).backgroundColor];
  return JSON.stringify(found);
}())
"""


class Page(QWebEnginePage):
    """A page that keeps what its console says."""

    said: list[str]

    def javaScriptConsoleMessage(self, level, message, line, source):  # type: ignore[no-untyped-def]
        self.said.append(f"{line}: {message}")


def main(path: Path) -> int:
    application = QApplication(sys.argv[:1])
    view, page = QWebEngineView(), Page()
    page.said = []
    view.setPage(page)
    view.resize(*SIZE)
    view.show()

    def end(text: str | None) -> None:
        found = json.loads(text) if text else {}
        print(json.dumps(found | {"console": page.said}))
        application.exit(0 if text else 1)

    def loaded(fine: bool) -> None:
        if fine:
            page.runJavaScript(LOOK, end)
        else:
            application.exit(2)

    page.loadFinished.connect(loaded)
    page.load(QUrl.fromLocalFile(str(path.resolve())))
    QTimer.singleShot(1000 * SECONDS, lambda: application.exit(3))
    return application.exec()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stdout.flush()
    os._exit(code)  # Qt's own end waits for processes that are no longer needed
