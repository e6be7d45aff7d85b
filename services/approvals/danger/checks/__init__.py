"""What a table cannot say: commands whose arguments are a language of their own. Pure.

Each check takes the command, its arguments without its name, the same told apart, and where it stands; it
gives findings whose reason goes on after the command's name. Tables name a check by its key in `CHECKS`.
`common` and `reach` are what the checks share.
"""

from __future__ import annotations

from services.approvals.danger.checks import files, programs, repository, servers, shells, text
from services.approvals.danger.checks.common import Check

CHECKS: dict[str, Check] = {
    "declaration": shells.declaration,
    "expression": shells.expression,
    "shell": shells.shell,
    "source": shells.source,
    "wrapper": shells.wrapper,
    "alone": shells.alone,
    "tells": shells.tells,
    "writes": files.writes,
    "second_is_output": files.second_is_output,
    "find": files.find,
    "tar": files.tar,
    "editor": files.editor,
    "dd": files.dd,
    "sed": text.sed,
    "awk": text.awk,
    "interpreter": programs.interpreter,
    "runner": programs.runner,
    "targets": programs.targets,
    "git_read": repository.git_read,
    "git_add": repository.git_add,
    "git_checkout": repository.git_checkout,
    "git_remote": repository.git_remote,
    "git_config": repository.git_config,
    "fetch": servers.fetch,
    "docker": servers.docker,
    "sql": servers.sql,
}
"""By the name that the tables use."""
