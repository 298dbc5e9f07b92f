"""``python -m workbench`` is the ``workbench`` command; so is ``torchrun -m workbench``."""

from workbench.cli import main

if __name__ == "__main__":
    main()
