"""Count the hostile inputs that the tests try: PYTHONPATH=src:tests python tests/hostile.py."""

import test_checkpoints
import test_cli
import test_door
import test_forged
import test_images
import test_imported
import test_params
import test_readers
import test_sources
import test_strict
import test_suite

FILES = {
    "options": test_door.count_inputs(),
    "words": len(test_cli.BAD_WORDS) + len(test_cli.BAD_COMMANDS),
    "images": len(test_cli.BAD_DATA)
    + len(test_images.BAD_ARRAYS)
    + len(test_images.DAMAGES)
    + len(test_sources.BAD)
    + 2 * len(test_strict.IDX),
    "checkpoints": len(test_cli.BAD_CHECKPOINTS)
    + len(test_checkpoints.MISFITS)
    + len(test_checkpoints.NOT_STATES)
    + len(test_imported.BAD),
    "public zoos": len(test_readers.MALFORMED) + len(test_readers.RULES),
    "metadata": len(test_strict.FORGED)
    + len(test_strict.NETS)
    + len(test_strict.TEXTS)
    + len(test_strict.NAMES),
    "artefacts": (len(test_forged.CHANGES) + len(test_forged.TABLES))
    * (len(test_forged.READERS) + len(test_forged.MODELS))
    + len(test_forged.TASKS)
    + len(test_forged.MEMBERS)
    + len(test_forged.TREES),
    "figures": 3 * len(test_strict.OTHER),
    "settings": len(test_params.STRICT) + len(test_params.DOUBLE) + 3 * len(test_suite.WRONG),
}


def main():
    """One line for each kind, and their sum."""
    for kind, count in FILES.items():
        print(f"{kind:<12}{count:>6}")
    print(f"{'all':<12}{sum(FILES.values()):>6}")


if __name__ == "__main__":
    main()
