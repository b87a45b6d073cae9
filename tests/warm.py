"""`python`, `dvc` and `weightspace` that start with PyTorch, scikit-learn and DVC imported.

These imports take seconds, more than what most tests do with them. A server for each test process imports what is not of this project and forks for every command. In the
folder of :func:`programs`, programs of these names hand their words, folder, environment and files to it.
The weightspace that a command imports is the one on its PYTHONPATH.
"""

import atexit
import gc
import hashlib
import importlib
import json
import multiprocessing.process
import os
import pickle
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from contextlib import suppress
from functools import cache
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
words = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
said = json.dumps([words, os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(said).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(said)
    code = server.recv(8)
sys.exit(int(code or 1))
"""


@cache
def programs() -> Path:
    """Folder with the programs `python`, `dvc` and `weightspace`, for PATH; the server ends with this process."""
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    for name in ("python", "dvc", "weightspace"):
        text = CLIENT.format(python=sys.executable, address=str(folder / "socket"))
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    environment |= {"HOME": str(folder), "OMP_WAIT_POLICY": "PASSIVE", "DVC_NO_ANALYTICS": "1"}
    command = [sys.executable, __file__, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    server = subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True, **pipes)
    assert server.stdout.readline() == b"ready\n"
    atexit.register(end, server)
    return folder


def end(server: subprocess.Popen) -> None:
    """Let the server end: it lives as long as its standard input is open."""
    server.stdin.close()
    server.stdout.close()
    server.wait(timeout=60)


# What takes long to import, of the stages and of DVC; an unknown name ends the server.
SLOW = """
numpy pandas pyarrow.dataset pyarrow.parquet pydantic.main pydantic.functional_validators pydantic.json_schema
safetensors.torch typer yaml rich.table rich.progress torch._dynamo
scipy.optimize scipy.stats sklearn.ensemble sklearn.linear_model sklearn.model_selection sklearn.neighbors
dvclive.live dvc.cli dvc.cli.parser dvc.cachemgr dvc.data_cloud dvc.repo dvc.repo.artifacts dvc.repo.datasets
dvc.repo.index dvc.repo.open_repo dvc.repo.plots dvc.repo.reproduce dvc.repo.stage dvc.ui.table
dvc.repo.experiments.executor.local dvc.repo.experiments.queue.celery dvc.repo.experiments.queue.tempdir
dvc.repo.experiments.run dvc.repo.experiments.show dvc.utils.hydra dvc.utils.strictyaml
dvc_data.hashfile.db.local dvc_data.index.checkout dvc_task.app.filesystem dulwich.porcelain dulwich.worktree
fsspec.implementations.memory hydra._internal.config_loader_impl kombu.transport.filesystem networkx pygit2
"""


def serve(folder: Path) -> None:
    """Answer clients until standard input ends."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        print("ready", flush=True)
        keepers = 0
        while True:
            ready = select.select([sys.stdin, listener], [], [], 0.1 if keepers else None)[0]
            if sys.stdin in ready:
                break
            if listener in ready:
                client, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    keep(client)
                client.close()
                keepers += 1
            while keepers and os.waitpid(-1, os.WNOHANG)[0]:
                keepers -= 1


def keep(client: socket.socket) -> None:
    """Run what a client asks for, in a session of its own, which is killed if the client is."""
    size, files, _, _ = socket.recv_fds(client, 8, 3)
    said, left = b"", int.from_bytes(size, "big")
    while len(said) < left:
        said += client.recv(left - len(said))
    if (process := os.fork()) == 0:
        client.close()
        os.setsid()
        for i, file in enumerate(files):
            os.dup2(file, i)
            os.close(file)
        work(*json.loads(said))
    for file in files:
        os.close(file)
    ended = os.pidfd_open(process)
    if client in select.select([client, ended], [], [])[0]:  # closed
        os.killpg(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    client.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def work(words: list[str], folder: str, environment: dict[str, str]) -> None:
    """What Python does from its start to its end, without the slow imports.

    Args:
        words: name of the program and its arguments.
        folder: where it works.
        environment: its own.

    """
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = folder  # where a spawned process looks for the script
    sys.modules["numpy"].random.seed()  # or all would draw the same
    paths = environment.get("PYTHONPATH", "")
    sys.path[:0] = paths.split(os.pathsep) if paths else []
    importlib.invalidate_caches()
    program, *words = words
    code = 0
    try:
        sys.modules.pop("sitecustomize", None)
        with suppress(ImportError):
            importlib.import_module("sitecustomize")
        run(words if program == "python" else ["-m", program, *words], folder)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 255)


def run(words: list[str], folder: str) -> None:
    """Run a script, a module or some code, as Python does with these arguments."""
    if words[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *words[2:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), vars(main))
    elif words[0] == "-m":
        sys.path.insert(0, folder)
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def remember_yaml(folder: Path) -> None:
    """Keep what DVC's parser makes of a text: most of its time goes to the same few files."""
    from ruamel.yaml import YAML

    parse = YAML.load

    def load(self: YAML, text: object) -> object:
        if not isinstance(text, str) or self.typ != ["safe"]:
            return parse(self, text)
        file = folder / hashlib.sha256(text.encode()).hexdigest()
        if not file.exists():
            unfinished = file.with_suffix(f".{os.getpid()}")
            unfinished.write_bytes(pickle.dumps(parse(self, text)))
            unfinished.rename(file)
        return pickle.loads(file.read_bytes())

    YAML.load = load


if __name__ == "__main__":
    del sys.path[0]
    for name in SLOW.split():
        importlib.import_module(name)
    remember_yaml(Path(sys.argv[1]))
    gc.freeze()  # or collections in the forked processes would copy all its pages
    serve(Path(sys.argv[1]))
    shutil.rmtree(sys.argv[1])
