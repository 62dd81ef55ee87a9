"""The body of a made figure: a random pose, its 17 keypoints, its parts' outlines from back to front.

See `kdc_model.data.scenes` for what is made of it.
"""

from __future__ import annotations

import cv2
import numpy as np

from kdc_core.skeleton import KEYPOINT_INDEX, NUM_KEYPOINTS

# Parts of a figure, by number in its part map; 0 is where the figure is not.
PARTS = ("none", "shirt", "sleeve", "trousers", "skin", "shoe", "face", "hair", "eye", "mouth")
PART_NUMBER = {name: number for number, name in enumerate(PARTS)}


def parts_at(name: str) -> tuple[str, ...]:
    """The parts that a keypoint is seen on: covered by another one it is hidden."""
    if name == "nose" or name.endswith(("eye", "ear")):
        return ("face", "hair", "eye", "mouth")
    if name.endswith(("knee", "ankle")):
        return ("trousers", "shoe", "skin")
    if name.endswith("hip"):
        return ("trousers", "shirt")
    return ("shirt", "sleeve", "skin")


class Body:
    """A random pose. keypoints: (K, 3) x, y, v; shapes: (part number, outline (P, 2)) from back to front."""

    def __init__(self, rng: np.random.Generator, size: float) -> None:
        self.size = size
        self.keypoints = np.zeros((NUM_KEYPOINTS, 3))
        self.shapes: list[tuple[int, np.ndarray]] = []
        # Yaw 0 faces the camera, +90 degrees the picture's right, 180 shows the back.
        yaw = rng.uniform(-1.2, 1.2) + (np.pi if rng.random() < 0.25 else 0.0)
        lean = rng.normal(0.0, 0.12) + (rng.choice((-1.45, 1.45)) if rng.random() < 0.08 else 0.0)
        up = np.array([np.sin(lean), -np.cos(lean)])
        across = np.array([-up[1], up[0]])  # to the picture's right for an upright figure
        neck, pelvis = 0.31 * size * up, np.zeros(2)
        side = {"left": np.cos(yaw), "right": -np.cos(yaw)}  # on which side of the picture, -1..1
        nearer = {"left": -np.sin(yaw), "right": np.sin(yaw)}
        for name in ("left", "right"):
            self._joint(f"{name}_shoulder", neck + across * 0.11 * size * side[name] - up * 0.01 * size)
            self._joint(f"{name}_hip", pelvis + across * 0.07 * size * side[name])
        far, near = sorted(nearer, key=lambda name: nearer[name])
        sitting = rng.random() < 0.15
        behind = rng.random() < 0.4
        self._arm(rng, far, lean, yaw, side[far])
        arm_end = len(self.shapes)
        self._leg(rng, far, lean, yaw, side[far], sitting)
        self._leg(rng, near, lean, yaw, side[near], sitting)
        self._torso()
        if not behind and abs(np.sin(yaw)) < 0.6:  # seen from the front both arms may be before the body
            self.shapes += self.shapes[:arm_end]
            del self.shapes[:arm_end]
        self._head(neck, up, across, yaw + rng.normal(0.0, 0.3))
        self._arm(rng, near, lean, yaw, side[near])

    def _joint(self, name: str, xy: np.ndarray, v: int = 2) -> None:
        self.keypoints[KEYPOINT_INDEX[name]] = (*xy, v)

    def _at(self, name: str) -> np.ndarray:
        return self.keypoints[KEYPOINT_INDEX[name], :2]

    def _limb(self, part: str, a: np.ndarray, b: np.ndarray, r_a: float, r_b: float) -> None:
        self.shapes.append((PART_NUMBER[part], _capsule(a, b, r_a * self.size, r_b * self.size)))

    def _arm(self, rng: np.random.Generator, name: str, lean: float, yaw: float, side: float) -> None:
        outward = np.sign(side) if abs(side) > 0.4 else np.sign(np.sin(yaw))
        angle = lean + outward * (rng.uniform(0.05, 0.7) if rng.random() < 0.7 else rng.uniform(0.7, 2.6))
        shoulder = self._at(f"{name}_shoulder")
        elbow = shoulder + _towards(angle) * 0.165 * self.size * rng.uniform(0.8, 1.0)
        angle += rng.choice((-1, 1), p=(0.3, 0.7)) * outward * rng.uniform(0.0, 1.9)
        wrist = elbow + _towards(angle) * 0.145 * self.size * rng.uniform(0.8, 1.0)
        self._joint(f"{name}_elbow", elbow)
        self._joint(f"{name}_wrist", wrist)
        self._limb("skin", elbow, wrist, 0.024, 0.018)
        self._limb("skin", wrist, wrist + _towards(angle) * 0.035 * self.size, 0.019, 0.022)
        self._limb("sleeve", shoulder, elbow, 0.036, 0.027)

    def _leg(
        self, rng: np.random.Generator, name: str, lean: float, yaw: float, side: float, sits: bool
    ) -> None:
        # How far forward is sideways in the picture.
        ahead = np.sign(np.sin(yaw)) * min(1.0, 1.6 * abs(np.sin(yaw)))
        walking = ahead * rng.normal(0.1, 0.35) + side * rng.uniform(0.0, 0.22)
        angle = lean + (ahead * 1.45 if sits else walking)
        length = 0.24 * self.size * (max(abs(ahead), 0.35) if sits else rng.uniform(0.92, 1.0))
        hip = self._at(f"{name}_hip")
        knee = hip + _towards(angle) * length
        bend = 1.45 if sits else abs(rng.normal(0.15, 0.3))
        angle -= ahead * bend
        ankle = knee + _towards(angle) * 0.23 * self.size * rng.uniform(0.92, 1.0)
        self._joint(f"{name}_knee", knee)
        self._joint(f"{name}_ankle", ankle)
        toe = _towards(angle) * 0.02 + np.array([0.07 * ahead + 0.02 * side, 0.012])
        self._limb("shoe", ankle, ankle + toe * self.size, 0.024, 0.022)
        self._limb("trousers", knee, ankle, 0.037, 0.025)
        self._limb("trousers", hip, knee, 0.055, 0.039)

    def _torso(self) -> None:
        corners = []
        for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"):
            radius = (0.04 if name.endswith("shoulder") else 0.05) * self.size
            corners.append(_capsule(self._at(name), self._at(name), radius, radius))
        hips = cv2.convexHull(np.concatenate(corners[2:]).astype(np.float32))[:, 0]
        self.shapes.append((PART_NUMBER["trousers"], hips.astype(np.float64)))
        hull = cv2.convexHull(np.concatenate(corners).astype(np.float32))[:, 0].astype(np.float64)
        self.shapes.append((PART_NUMBER["shirt"], hull))

    def _head(self, neck: np.ndarray, up: np.ndarray, across: np.ndarray, yaw: float) -> None:
        tall, wide = 0.078 * self.size, 0.058 * self.size
        centre = neck + up * 0.125 * self.size
        self._limb("skin", neck, centre, 0.03, 0.03)

        def on_head(angle: float, height: float) -> np.ndarray:
            return centre + across * wide * 0.95 * np.sin(angle) + up * tall * height

        def ellipse(middle: np.ndarray, half_wide: float, half_tall: float) -> np.ndarray:
            turn = np.linspace(0, 2 * np.pi, 32, endpoint=False)[:, None]
            return middle + across * half_wide * np.cos(turn) + up * half_tall * np.sin(turn)

        hair = ellipse(centre + up * 0.06 * tall, 1.06 * wide, 1.08 * tall)
        self.shapes.append((PART_NUMBER["hair"], hair))
        if np.cos(yaw) > -0.3:
            # The face turns out of sight with the nose; its outline stays inside the head's.
            share = 0.5 + 0.45 * max(np.cos(yaw), 0.0)
            middle = centre + across * wide * (1 - share) * np.sin(yaw) - up * 0.12 * tall
            self.shapes.append((PART_NUMBER["face"], ellipse(middle, wide * share, 0.86 * tall)))
            mouth = on_head(yaw, -0.5)
            half_wide = 0.3 * wide * max(np.cos(yaw), 0.2)
            self.shapes.append((PART_NUMBER["mouth"], ellipse(mouth, half_wide, 0.07 * tall)))
        for name, angle, height in (
            ("nose", yaw, -0.1),
            ("left_eye", yaw + 0.5, 0.12),
            ("right_eye", yaw - 0.5, 0.12),
            ("left_ear", yaw + 1.5, 0.0),
            ("right_ear", yaw - 1.5, 0.0),
        ):
            # On the far side of the head nobody would label it.
            seen = np.cos(angle) > (-0.35 if name.endswith("ear") else -0.1)
            self._joint(name, on_head(angle, height), 2 if seen else 0)
            if seen and name.endswith("eye"):
                eye = ellipse(on_head(angle, height), 0.13 * wide, 0.09 * tall)
                self.shapes.append((PART_NUMBER["eye"], eye))


def _towards(angle: float) -> np.ndarray:
    """Unit vector at an angle from straight down, towards the picture's right for a positive one."""
    return np.array([np.sin(angle), np.cos(angle)])


def _capsule(a: np.ndarray, b: np.ndarray, r_a: float, r_b: float) -> np.ndarray:
    """Outline of two circles and what lies between them, float64 (P, 2)."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1)
    points = np.concatenate([a + r_a * circle, b + r_b * circle]).astype(np.float32)
    return cv2.convexHull(points)[:, 0].astype(np.float64)
