"""The tools that really run: Bash, Read and Write; and those that only answer."""

from __future__ import annotations

import os

from .child import Child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .session import Session
    from .wire import Frame, Steps

MAX_OUTPUT = 30_000


def run_tool(session: Session, name: str, value: Frame) -> Steps:
    """Run an allowed tool. Returns (its text, whether that is an error, the raw result)."""
    if name == "Bash":
        return (yield from _bash(str(value.get("command", ""))))
    if name in ("Read", "Write"):
        path = os.path.join(session.conversation.cwd, str(value.get("file_path", "")))
        try:
            return _read(path) if name == "Read" else _write(path, str(value.get("content", "")))
        except OSError as error:
            return f"{error.strerror}: {path}", True, f"Error: {error.strerror}"
    if name == "AskUserQuestion":
        answers = value.get("answers") or {}
        raw = {"questions": value.get("questions", []), "answers": answers}
        if not answers:
            return "The user did not answer the questions.", False, raw
        said = ", ".join(f'"{question}"="{answer}"' for question, answer in answers.items())
        text = f"Your questions have been answered: {said}. You can now continue with these answers in mind."
        return text, False, raw
    if name == "ExitPlanMode":
        if session.mode == "plan":
            session.enter_mode("default")
        raw = {"plan": value.get("plan"), "isAgent": False}
        return "User has approved exiting plan mode. You can now proceed.", False, raw
    return f"The scripted agent has no {name}.", True, f"Error: no {name}"


def _read(path: str) -> tuple[str, bool, Frame]:
    with open(path, errors="replace") as file:
        lines = file.read(MAX_OUTPUT).splitlines()
    text = "\n".join(f"{number}\t{line}" for number, line in enumerate(lines, 1))
    content = {"filePath": path, "content": "\n".join(lines), "numLines": len(lines), "startLine": 1}
    return text or "(the file is empty)", False, {"type": "text", "file": content}


def _write(path: str, content: str) -> tuple[str, bool, Frame]:
    kind = "update" if os.path.exists(path) else "create"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(content)
    return (
        f"File {kind}d successfully at: {path}",
        False,
        {"type": kind, "filePath": path, "content": content},
    )


def _bash(command: str) -> Steps:
    code, output = yield ("child", Child(command))
    text = output.decode(errors="replace").rstrip()[:MAX_OUTPUT]
    raw = {
        "stdout": text,
        "stderr": "",
        "interrupted": False,
        "isImage": False,
        "noOutputExpected": not text,
    }
    if code:
        return f"Exit code {code}\n{text}".rstrip(), True, f"Error: Exit code {code}\n{text}".rstrip()
    return text or "(Bash completed with no output)", False, raw
