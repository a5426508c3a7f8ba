"""`capo push`: put a policy on the Hugging Face Hub."""

from pathlib import Path
from typing import Annotated

import typer

from capo.cli.app import Section, app, stop
from capo.cli.options import Json

HELP = """Put a policy on the Hugging Face Hub.

POLICY is a run directory or a policy folder. Uploads the policy and its model card; of a run that was
evaluated, also the win-rates and images of base and tuned model. First lists the files and asks. A new
repository is private unless --public is set."""

EPILOG = """\b
Examples:
  capo push runs/first owner/aligned-sdxl
  capo push runs/first owner/aligned-sdxl --public --yes
  capo push runs/first owner/aligned-sdxl --json    only list the files"""


@app.command(help=HELP, epilog=EPILOG, rich_help_panel=Section.MORE)
def push(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="Run directory or policy folder.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub.")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone read the repository.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Upload without asking.")] = False,
    as_json: Json = False,
) -> None:
    from capo.cli.tables import print_json, print_text
    from capo.images.disk_space import format_bytes
    from capo.pipeline.push import files_of, find_target
    from capo.pipeline.push import push as upload

    files = files_of(policy)
    target = find_target(repository, public=public)
    size = sum(file.size for file in files)
    if not as_json:
        for file in files:
            print_text(f"{format_bytes(file.size):>8}  {file.path}")
        kind = f"{'existing' if target.exists else 'new'} {'private' if target.private else 'public'}"
        print_text(f"{len(files)} files, {format_bytes(size)}, for the {kind} repository {repository}")
        if not yes and not typer.confirm("Upload them?"):
            stop("Nothing was uploaded.", 1)
    url = upload(files, target) if yes or not as_json else None
    if as_json:
        listed = [{"path": file.path, "bytes": file.size} for file in files]
        print_json({"repository": repository, "private": target.private, "files": listed, "url": url})
    else:
        print_text(f"Uploaded: {url}")
