"""Whether a run takes its root filesystem from an EROFS image instead of from the folder.

The folder stays `root.path`: both have the same files. With the image runsc starts no gofer.
"""

from __future__ import annotations

import os

from pytest_gvisor.oci.spec import Spec
from pytest_gvisor.run.request import Request, Workspace
from pytest_gvisor.runsc.command import root_from_image
from pytest_gvisor.runsc.features import takes_images
from pytest_gvisor.runsc.rootless import Way


def steering(request: Request, workspace: Workspace, spec: Spec) -> dict[str, str]:
    """Return the annotations for runsc; none where this run uses the folder.

    A hook may have changed the specification since the root was made.
    """
    packed = workspace.packed.get(spec.root.path)
    # Root in a namespace of one id sees other owners' files in a folder as nobody's.
    fits = request.way is Way.PRIVILEGED or os.geteuid() != 0
    needs_gofer = any(mount.is_bind for mount in spec.mounts) or request.restores
    if packed is None or needs_gofer or not fits or not takes_images(request.runsc.date):
        return {}
    image = packed()
    return root_from_image(image) if image else {}
