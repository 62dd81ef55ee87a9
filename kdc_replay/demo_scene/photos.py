"""The photographs of the demonstration, and where the person is in each: outlines and joints, set by hand.

All are free of copyright and come with Python packages, so nothing is downloaded when the demo runs:

astronaut     Eileen Collins. NASA, public domain. Comes with scikit-image.
grace_hopper  Grace Hopper. James S. Davis, U.S. Navy, public domain. Comes with matplotlib.
cameraman     A man behind a camera. Lav Varshney, CC0. Comes with scikit-image ("camera").
rocket        A Falcon 9 before its start. SpaceX, public domain. Comes with scikit-image; hangs on the
              scene's wall.

Coordinates are pixels of the photograph, (x, y), a pixel's centre at integers.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS

Polygon = tuple[tuple[int, int], ...]


class PhotoError(RuntimeError):
    """A photograph is not where its package should have put it."""


@dataclass(frozen=True, eq=False)
class Photo:
    """A photograph and the truth about the one person in it.

    package, file: where it lies: a path below the installed Python package.
    size_wh:       width and height in pixels.
    credit:        who took it, and its terms.
    person:        polygons around the person's pixels.
    carried:       polygons around what the person holds; it moves along, but is not the person.
    joints:        keypoint name -> (x, y), for those that can be seen.
    """

    name: str
    package: str
    file: str
    size_wh: tuple[int, int]
    credit: str
    person: tuple[Polygon, ...] = ()
    carried: tuple[Polygon, ...] = ()
    joints: dict[str, tuple[int, int]] = field(default_factory=dict)
    grey: bool = False

    def read(self) -> np.ndarray:
        """The picture, uint8: RGB (H, W, 3), or (H, W) for a grey one. Raises PhotoError."""
        path = self._path()
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if self.grey else cv2.IMREAD_COLOR)
        if image is None or (image.shape[1], image.shape[0]) != self.size_wh:
            raise PhotoError(f"{path} is not the photograph that {self.package} usually brings")
        return image if self.grey else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)

    def _path(self) -> Path:
        spec = importlib.util.find_spec(self.package)
        folders = list(spec.submodule_search_locations or []) if spec is not None else []
        # A Linux distribution may keep a package's data apart.
        shared = Path("/usr/share") / self.package / Path(self.file).name
        for path in (*(Path(folder) / self.file for folder in folders), shared):
            if path.is_file():
                return path
        raise PhotoError(
            f"{Path(self.file).name}, which comes with the Python package {self.package}, is not there: "
            "install it with 'pip install -r requirements/demo.txt', or give your own pictures with --input"
        )

    def keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """The joints as float64 (K, 2) pixels and bool (K,), which of them are known."""
        places = np.zeros((NUM_KEYPOINTS, 2))
        known = np.zeros(NUM_KEYPOINTS, bool)
        for name, place in self.joints.items():
            places[KEYPOINT_INDEX[name]] = place
            known[KEYPOINT_INDEX[name]] = True
        return places, known


# fmt: off
ASTRONAUT = Photo(
    name="astronaut", package="skimage", file="data/astronaut.png", size_wh=(512, 512),
    credit="Eileen Collins. Photo: NASA, public domain; from scikit-image",
    person=((
        (251, 19), (227, 16), (214, 21), (205, 21), (198, 25), (186, 37), (173, 44), (157, 57), (153, 68),
        (155, 98), (158, 105), (170, 118), (172, 125), (181, 133), (184, 150), (181, 153), (154, 157),
        (145, 162), (136, 171), (128, 172), (125, 177), (125, 189), (121, 198), (114, 202), (91, 226),
        (79, 233), (65, 246), (45, 280), (26, 342), (26, 366), (19, 390), (20, 420), (24, 432), (23, 460),
        (25, 478), (29, 493), (37, 503), (39, 511), (280, 511), (276, 495), (276, 460), (282, 433),
        (292, 411), (295, 395), (329, 362), (347, 354), (360, 351), (363, 348), (360, 342), (361, 330),
        (357, 323), (356, 302), (341, 264), (331, 253), (303, 232), (299, 219), (289, 203), (255, 171),
        (256, 163), (264, 149), (267, 138), (273, 135), (294, 111), (300, 92), (300, 81), (295, 56),
        (286, 40), (274, 30),
    ),),
    carried=((  # the helmet
        (274, 451), (274, 473), (278, 502), (281, 511), (492, 511), (496, 480), (497, 452), (494, 424),
        (488, 403), (480, 387), (454, 360), (437, 351), (416, 344), (381, 345), (346, 356), (316, 381),
        (303, 395), (287, 422), (280, 445),
    ),),
    joints={
        "nose": (227, 125), "left_eye": (246, 103), "right_eye": (202, 101), "left_ear": (271, 128),
        "right_ear": (176, 124), "left_shoulder": (328, 268), "right_shoulder": (92, 268),
        "right_elbow": (56, 462), "right_wrist": (145, 496),
    },
)

GRACE_HOPPER = Photo(
    name="grace_hopper", package="matplotlib", file="mpl-data/sample_data/grace_hopper.jpg",
    size_wh=(512, 600),
    credit="Grace Hopper. Photo: James S. Davis, U.S. Navy, public domain; from matplotlib",
    person=((
        (218, 31), (209, 44), (196, 50), (181, 64), (176, 73), (174, 84), (164, 90), (155, 102), (148, 102),
        (145, 105), (146, 150), (151, 159), (151, 173), (146, 181), (146, 193), (152, 201), (154, 216),
        (160, 226), (162, 260), (163, 270), (176, 285), (194, 295), (200, 303), (204, 317), (191, 330),
        (186, 330), (167, 343), (132, 354), (121, 360), (97, 363), (78, 369), (64, 378), (52, 382), (48, 386),
        (37, 412), (28, 428), (27, 459), (23, 495), (17, 526), (15, 568), (11, 599), (506, 599), (509, 520),
        (508, 470), (504, 430), (493, 395), (489, 390), (482, 388), (466, 378), (420, 365), (376, 345),
        (365, 342), (337, 321), (332, 315), (333, 310), (352, 291), (352, 277), (361, 260), (367, 236),
        (367, 228), (369, 224), (367, 210), (372, 204), (375, 196), (374, 188), (368, 181), (371, 135),
        (369, 129), (369, 103), (365, 90), (352, 83), (346, 68), (335, 56), (315, 45), (300, 41), (290, 32),
        (281, 27), (270, 24), (249, 23), (238, 25), (226, 31),
    ),),
    joints={
        "nose": (267, 232), "left_eye": (306, 187), "right_eye": (221, 190), "left_ear": (360, 218),
        "right_ear": (169, 221), "left_shoulder": (452, 412), "right_shoulder": (80, 415),
    },
)

CAMERAMAN = Photo(
    name="cameraman", package="skimage", file="data/camera.png", size_wh=(512, 512), grey=True,
    credit="Cameraman. Photo: Lav Varshney, CC0; from scikit-image",
    person=(
        (
            (220, 69), (193, 69), (186, 73), (173, 86), (160, 105), (149, 108), (130, 124), (116, 125),
            (104, 129), (76, 143), (65, 155), (51, 182), (38, 198), (30, 216), (18, 228), (16, 236), (0, 257),
            (0, 511), (89, 511), (93, 493), (97, 454), (101, 449), (113, 461), (123, 475), (137, 502),
            (139, 511), (151, 511), (148, 423), (140, 385), (141, 380), (173, 342), (206, 295), (208, 294),
            (235, 309), (247, 312), (266, 303), (287, 288), (287, 217), (281, 208), (278, 206), (271, 207),
            (261, 216), (262, 230), (250, 243), (246, 240), (241, 222), (243, 209), (239, 203), (241, 182),
            (245, 174), (254, 166), (249, 148), (256, 139), (258, 132), (269, 127), (269, 113), (257, 95),
            (241, 79),
        ),
        # The far hand on the camera, and the far sleeve beyond the tripod.
        ((318, 169), (327, 171), (331, 185), (330, 198), (322, 214), (309, 225), (299, 225), (299, 195), (318,
        184)), ((298, 250), (304, 272), (303, 276), (298, 280)),
    ),
    carried=(  # the camera, its strap, and the tripod: mount, column, handle, legs and struts
        ((253, 141), (323, 139), (325, 154), (319, 157), (319, 183), (298, 187), (272, 186), (260, 176), (260,
        152)), ((273, 186), (300, 186), (300, 199), (291, 204), (298, 211), (298, 313), (320, 313), (320,
        330), (298, 346),
         (298, 483), (288, 483), (288, 346), (279, 330), (279, 313), (288, 313), (288, 212), (280, 206), (273,
         199)),
        ((304, 183), (307, 183), (304, 232), (308, 237), (307, 247), (301, 248), (297, 242), (298, 234), (302,
        231)), ((309, 317), (325, 302), (338, 300), (338, 307), (328, 308), (312, 324)),
        ((281, 330), (289, 332), (246, 511), (231, 511)),
        ((304, 328), (312, 328), (408, 511), (398, 511)),
    ),
    joints={
        "nose": (249, 163), "right_eye": (236, 149), "right_ear": (188, 142), "right_shoulder": (105, 182),
        "left_elbow": (243, 297), "right_elbow": (72, 305), "left_wrist": (276, 243),
        "right_wrist": (185, 250),
    },
)

ROCKET = Photo(
    name="rocket", package="skimage", file="data/rocket.jpg", size_wh=(640, 427),
    credit="Falcon 9 with DSCOVR. Photo: SpaceX, public domain; from scikit-image",
)
# fmt: on

PEOPLE_PHOTOS: tuple[Photo, ...] = (ASTRONAUT, GRACE_HOPPER, CAMERAMAN)
ALL_PHOTOS: tuple[Photo, ...] = (*PEOPLE_PHOTOS, ROCKET)
