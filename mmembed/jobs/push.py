"""`mmembed push`: a model's folder → a repository on the Hub, or, with `--dry_run`, all that would be sent."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmembed.jobs.options import OptionsError, parse_options
from mmembed.jobs.push_options import PushOptions

if TYPE_CHECKING:
    from mmembed.export.hub import PushReport

_SHOWN = 30  # files that stay behind


def main(argv: Sequence[str]) -> int:
    """Run the verb.

    Args:
        argv: The words after `push`.

    Returns:
        0 when the model is on the Hub, or the dry run found nothing wrong.

    Raises:
        OptionsError: If an option is unknown or of the wrong type.
        ModelError: If the folder is hostile.
        PublishError: If the model is not fit to be published.
        HubError: If it did not reach the Hub.

    Example:
        >>> main(["--repo_id", "me/shoes"])
        Traceback (most recent call last):
        mmembed.jobs.config_file.OptionsError: --model: name the folder of the model
    """
    run(parse_options(PushOptions, argv, prog="mmembed push", description=PushOptions.__doc__ or ""))
    return 0


def run(options: PushOptions) -> PushReport:
    """Publish, and tell what was published.

    Args:
        options: Which model, under which name, and what its card says.

    Returns:
        What `push_to_hub` returns.
    """
    if not options.model:
        raise OptionsError("--model: name the folder of the model")
    if not options.repo_id:
        raise OptionsError("--repo_id: name the repository on the Hub, as owner/name")
    from mmembed.export.hub import push_to_hub, save_model
    from mmembed.jobs.model_choice import resolve_name
    from mmembed.jobs.option_errors import as_option_errors

    folder = resolve_name(options.model)
    card: dict[str, Any] = {
        "license": options.license,
        "base_model": options.base_model or None,
        "languages": options.language,
        "tags": options.tags,
        "limitations": options.limitations,
    }
    with as_option_errors():
        if options.output is not None:
            save_model(folder, options.output, repo_id=options.repo_id, **card)
        report = push_to_hub(
            folder,
            options.repo_id,
            private=options.private,
            replace=options.replace,
            commit_message=options.commit_message,
            endpoint=options.endpoint,
            dry_run=options.dry_run,
            **card,
        )
    sys.stdout.write(told(report, output=options.output))
    return report


def told(report: PushReport, *, output: str | None = None) -> str:
    """What a push says at its end.

    Args:
        report: Of the push.
        output: The folder that the files were also written to.

    Returns:
        Lines: the files with sizes and hashes, what stayed behind, which servers can run it, what is missing, and where it is.
    """
    from mmembed.pages import text_table

    rows = [[file.path, f"{file.size:,}", file.sha256[:16]] for file in report.files]
    parts = [text_table(rows, ["file", "bytes", "SHA-256"]), f"together        {report.size:,} bytes"]
    if report.left_out:
        behind = [[path, reason] for path, reason in report.left_out.items()]
        more = f"\nand {len(behind) - _SHOWN:,} more" if len(behind) > _SHOWN else ""
        parts.append(text_table(behind[:_SHOWN], ["stays behind", "because it is"]) + more)
    servers = [
        [
            fit.server,
            "yes" if fit.fits else "no",
            fit.command.replace("MODEL", report.repo_id) + (f"  ({fit.note})" if fit.note else ""),
        ]
        if fit.fits
        else [fit.server, "no", "; ".join(fit.against)]
        for fit in report.servers
    ]
    parts.append(text_table(servers, ["server", "runs it", "how, or why not"]))
    parts += ["\n".join(f"note            {note}" for note in report.notes)] if report.notes else []
    end = [f"written to      {output}"] if output is not None else []
    if report.commit is None:
        end.append(f"dry run         nothing was sent to {report.repo_id}")
    else:
        end += [f"on the Hub      {report.url}", f'pinned          revision="{report.commit}"']
    return "\n" + "\n\n".join([*parts, "\n".join(end)]) + "\n"
