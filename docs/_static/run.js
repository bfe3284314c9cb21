/* Runs the examples of a page in the reader's browser: Python and the packages of the core are
   Pyodide's, the library is an archive of this site. The page in_your_browser.md says more. */
const PYODIDE = "https://cdn.jsdelivr.net/pyodide/v314.0.7/full/";
const PACKAGES = ["scikit-learn", "clarabel", "pandas"];
const NOT_THERE =
  /\b(torch|dask|distributed|skops|imblearn|subprocess|parquet|matplotlib|skl2onnx|PathRecorder|ConvergenceDisplay|Robust(MLP|Net)Classifier|attacks|verification|make_mlp)\b/;
const RUNNER = `
import contextlib, doctest, io, traceback

def run(text, names):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            examples = doctest.DocTestParser().get_examples(text)
        except ValueError as error:  # the code was edited: a prompt without its space
            examples = []
            print(error)
        for example in examples:
            try:
                exec(compile(example.source, "<example>", "single"), names)
            except Exception as error:
                print("".join(traceback.format_exception_only(error)).strip())
    return said.getvalue()
`;

async function start() {
  const { loadPyodide } = await import(`${PYODIDE}pyodide.mjs`);
  const python = await loadPyodide({ indexURL: PYODIDE });
  await python.loadPackage(PACKAGES);
  const archive = await fetch(new URL("sklearn_robust.zip", import.meta.url));
  python.unpackArchive(await archive.arrayBuffer(), "zip");
  python.runPython(RUNNER);
  return { python, names: python.runPython("{'__name__': '__main__'}") };
}

let started = null; // one Python for the page
const blocks = [...document.querySelectorAll("div.highlight pre")].filter((block) =>
  block.textContent.startsWith(">>>"));
let done = 0; // blocks that ran: a block needs those before it
let turn = Promise.resolve(); // one run at a time

async function runUpTo(last, button) {
  button.disabled = true;
  try {
    button.textContent = "loading Python";
    started ??= start();
    const { python, names } = await started;
    for (const place of last < done ? [last] : [...blocks.keys()].filter((k) => k >= done && k <= last)) {
      button.textContent = "running";
      await new Promise((painted) => setTimeout(painted)); // the page shows what it does
      const text = blocks[place].textContent;
      const lines = text.match(/^(>>>|\.\.\.)( .*)?$/gm) ?? []; // without what they print
      await python.loadPackagesFromImports(lines.map((line) => line.slice(4)).join("\n"));
      show(blocks[place], python.globals.get("run")(text, names));
      done = Math.max(done, place + 1);
    }
    button.textContent = "run again";
  } catch (error) {
    started = null;
    done = 0;
    button.textContent = "run";
    show(blocks[last], `This browser did not start Python: ${error.message}`);
  }
  button.disabled = false;
}

function show(block, text) {
  block.parentElement.querySelector(".said")?.remove();
  const said = document.createElement("pre");
  said.className = "said";
  said.textContent = text || "(no output)";
  block.after(said);
}

if (!NOT_THERE.test(blocks.map((block) => block.textContent).join())) {
  blocks.forEach((block, place) => {
    const button = document.createElement("button");
    button.className = "run";
    button.textContent = "run";
    button.title = "Run the examples of this page up to here, in your browser";
    button.addEventListener("click", () => {
      turn = turn.then(() => runUpTo(place, button));
    });
    block.parentElement.append(button);
    block.contentEditable = "plaintext-only";
    block.spellcheck = false;
  });
}
