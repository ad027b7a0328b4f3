"""One chapter: executed from a fresh kernel, and published."""

from pathlib import Path

from vlmcourse import notebooks
from vlmcourse.course import page
from vlmcourse.course.state import title_of


def run_chapter(
    source: Path, output: Path, parameters: dict, cell_timeout_s: int, kernel_arguments: list[str]
) -> dict:
    """Execute a chapter from a fresh kernel in its own folder, and publish its page.

    Args:
        source: its notebook.
        output: folder for the executed copy, the page and the figures.
        parameters: values by name; those it does not declare are left out.
        cell_timeout_s: longest time of a cell.
        kernel_arguments: options of the kernel.

    Returns:
        ``error``, empty if all went well, else the cell and what happened there; ``figures``, paths
        from ``output``.
    """
    executed = output / source.name
    executed.unlink(missing_ok=True)
    error = executed_with_error(source, executed, parameters, cell_timeout_s, kernel_arguments)
    if error:
        error = f"{failing_cell(executed)}: {' '.join(error.split())[:400]}"
    title = title_of(notebooks.read_notebook(source))
    return {"error": error, "figures": page.publish(output, source, title)}


def executed_with_error(
    source: Path, executed: Path, parameters: dict, cell_timeout_s: int, kernel_arguments: list[str]
) -> str:
    """Run the notebook through papermill; "" or what ended it."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    declared = papermill.inspect_notebook(str(source))
    try:
        papermill.execute_notebook(
            source,
            executed,
            parameters={name: value for name, value in parameters.items() if name in declared},
            kernel_name=notebooks.KERNELSPEC["name"],
            cwd=source.parent,
            progress_bar=False,
            execution_timeout=cell_timeout_s,
            extra_arguments=kernel_arguments,
        )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except CellTimeoutError:
        return f"CellTimeoutError: more than {cell_timeout_s} s"
    except DeadKernelError:
        return "DeadKernelError: the kernel died"
    except (RuntimeError, OSError) as error:  # the kernel did not even start
        return f"{type(error).__name__}: {error}"
    return ""


def failing_cell(executed: Path) -> str:
    """Name the cell where an executed copy stopped, by its number in the chapter itself."""
    if not executed.exists():
        return "before its first cell"
    added = {"papermill-error-cell-tag", "injected-parameters"}
    own = [
        cell
        for cell in notebooks.read_notebook(executed)["cells"]
        if not added & set(cell["metadata"].get("tags", []))
    ]
    begun = []
    for number, cell in enumerate(own, start=1):
        runner = cell["metadata"].get("papermill", {})
        if runner.get("start_time"):
            lines = notebooks.as_text(cell["source"]).strip().splitlines() or [""]
            begun.append(f"cell {number} (`{lines[0][:60]}`)")
        if runner.get("exception"):
            break
    return begun[-1] if begun else "before its first cell"
