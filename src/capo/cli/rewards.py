"""`capo rewards`."""

from capo.cli.app import app
from capo.cli.options import Json


@app.command()
def rewards(as_json: Json = False) -> None:
    """List the shipped rewards and how their scores compare."""
    from capo import terminal

    terminal.print_rewards(as_json)
