"""Opens the built site in headless Chromium, at desktop and phone width: no error in the console, no page wider than its window, search finds `LIF`.

python docs/_ext/browse.py [--shots FOLDER]
"""

import argparse
import functools
import html
import http.server
import pathlib
import re
import shutil
import subprocess
import sys
import threading
import urllib.parse

SITE = pathlib.Path(__file__).parents[1] / "_build" / "html"
PAGES = ("index.html", "learn/first_network.html", "learn/four_gradients.html", "learn/event_data.html", "learn/chip.html", "howto/zoo.html", "howto/coming_from.html", "reference/jsnn.neurons.html", "results.html", "gallery.html")  # fmt: skip
WIDTHS = (1280, 400)
# A window cannot be narrower than 500 pixels, so pages are shown in a frame that can.
FRAME = """<!doctype html><body style="margin:0"><iframe id="f" src="/{page}" style="border:0;width:{width}px;height:{height}px"></iframe>
<pre id="found">nothing</pre><script>
document.getElementById("f").onload = () => setTimeout(() => {{
  const page = document.getElementById("f").contentDocument;
  const alt = [...page.images].filter(x => !x.alt).length;
  document.getElementById("found").textContent = `width ${{page.documentElement.scrollWidth}} alt ${{alt}} images ${{page.images.length}}`;
}}, 1500)</script></body>"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """The site, and pages of it in a frame."""

    def log_message(self, *_) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        """A file, or a frame."""
        place = urllib.parse.urlparse(self.path)
        if place.path != "/_frame":
            super().do_GET()
            return
        asked = {k: v[0] for k, v in urllib.parse.parse_qs(place.query).items()}
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(FRAME.format(**asked).encode())


def chromium(url: str, *options: str) -> tuple[str, list[str]]:
    """The page as it is in the end, and what went wrong."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        sys.exit("There is no chromium here: apt-get install chromium.")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync", "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=8000"]  # fmt: skip
    done = subprocess.run([program, *flags, *options, url], capture_output=True, text=True, timeout=180)  # fmt: skip
    wrong = [x for x in done.stderr.splitlines() if "CONSOLE" in x and re.search("error|Uncaught|Refused|Failed", x, re.I)]  # fmt: skip
    return done.stdout, wrong


def main() -> int:
    """Looks at all pages; the number of complaints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--shots", type=pathlib.Path, help="folder for pictures, light and dark"
    )
    shots = parser.parse_args().shots
    handler = functools.partial(Handler, directory=str(SITE))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base, complaints = f"http://127.0.0.1:{server.server_port}", []
    for page in PAGES:
        for width in WIDTHS:
            url = f"{base}/_frame?page={page}&width={width}&height=2400"
            text, wrong = chromium(url, f"--window-size={max(width, 500)},2500", "--dump-dom")  # fmt: skip
            found = re.search(r"width (\d+) alt (\d+) images (\d+)", text)
            if not found:
                wrong.append("it did not load")
            elif int(found[1]) > width or int(found[2]):
                wrong.append(f"{found[0]}, in a window of {width}")
            complaints += [f"{page} at {width}: {x}" for x in wrong]
            print(page, width, found and found[0], "wrong" if wrong else "ok")
            if shots:
                shots.mkdir(exist_ok=True, parents=True)
                for look, scheme in (("light", 1), ("dark", 0)):
                    name = f"{page.replace('/', '-').removesuffix('.html')}-{width}-{look}.png"
                    chromium(url, f"--window-size={max(width, 500)},2400", f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={shots / name}")  # fmt: skip
    text, wrong = chromium(f"{base}/search.html?q=LIF", "--dump-dom")
    results = re.findall(r'href="([^"]*)#(jsnn[.\w]*LIF)"', html.unescape(text))
    print("search for LIF:", [name for _, name in results][:5])
    complaints += [f"search: {x}" for x in wrong] + ([] if results else ["search for LIF finds nothing"])  # fmt: skip
    print(*complaints, sep="\n")
    return len(complaints)


if __name__ == "__main__":
    sys.exit(main())
