"""Both folder formats: conventions against closed forms, splits, and one clear line for what is wrong."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.folders import barrel_views, ring, write_blender, write_nerfstudio
from threedgen.data.frames import Frame, read_document, read_frames
from threedgen.data.posed_images import read_images
from threedgen.data.scene import read_scene
from threedgen.data.splits import read_splits
from threedgen.errors import UserError
from threedgen.guidance.images import Images

WIDTH, HEIGHT = 40, 30


def blank(views: int, width: int = WIDTH, height: int = HEIGHT) -> list[np.ndarray]:
    return [np.full((height, width, 4), 10 * number, np.uint8) for number in range(views)]


def by_hand(c2w: np.ndarray, focal: float, point: np.ndarray) -> tuple[float, float]:
    """Row and column of a point by the pinhole formula, the principal point in the middle: x right, y up, looking along -z."""
    x, y, z = c2w[:3, :3].T @ (point - c2w[:3, 3])
    return HEIGHT / 2 + focal * y / z, WIDTH / 2 - focal * x / z


@pytest.mark.parametrize("kind", ["blender", "nerfstudio"])
def test_a_known_point_falls_on_the_known_pixel(tmp_path, kind):
    """A point 0.2 to the right, 0.1 above the axis and 2 in front of the camera lies f 0.2/2 right of the middle, f 0.1/2 above it."""
    cameras = ring(2, WIDTH, HEIGHT)
    images = blank(2)
    if kind == "blender":
        path = write_blender(tmp_path / "d", {"train": (cameras, images)}) / "transforms_train.json"
        focal = WIDTH / (2 * math.tan(json.loads(path.read_text())["camera_angle_x"] / 2))
    else:
        path = write_nerfstudio(tmp_path / "d", (cameras, images)) / "transforms.json"
        focal = json.loads(path.read_text())["fl_x"]
    read = read_images(read_frames(path, read_document(path)))
    for view in range(2):
        c2w = cameras.c2w[view].double().numpy()
        point = c2w[:3, 3] + 0.2 * c2w[:3, 0] + 0.1 * c2w[:3, 1] - 2 * c2w[:3, 2]
        expected = (HEIGHT / 2 - focal * 0.05, WIDTH / 2 + focal * 0.1)
        assert by_hand(c2w, focal, point) == pytest.approx(expected)
        pixel, depth = read.cameras[[view]].project(torch.tensor(point)[None].float())
        assert float(depth) == pytest.approx(2, abs=1e-5)
        assert pixel[0, 0].tolist() == pytest.approx(expected[::-1], abs=1e-3)
        # The ray through the centre of a pixel goes the same way back.
        at = torch.tensor([view]), torch.tensor([4]), torch.tensor([33])
        origin, direction = read.cameras.rays_through(*at)
        pixel, _ = read.cameras[[view]].project(origin + 3 * direction)
        assert pixel[0, 0].tolist() == pytest.approx((33.5, 4.5), abs=1e-3)


def test_colours_are_kept_as_stored_and_alpha_is_straight(tmp_path):
    images = blank(2)
    images[1][3, 5] = (255, 51, 0, 102)
    path = write_blender(tmp_path / "d", {"train": (ring(2, WIDTH, HEIGHT), images)}) / "transforms_train.json"
    read = read_images(read_frames(path, read_document(path)))
    assert read.rgb[1, 3, 5].tolist() == pytest.approx([1.0, 0.2, 0.0])
    assert read.alpha[1, 3, 5].tolist() == pytest.approx([0.4])
    assert read.over(1.0)[1, 3, 5].tolist() == pytest.approx([1.0, 0.68, 0.6])
    assert read.has_alpha
    assert (read.mask, read.depth) == (None, None)


def test_images_without_alpha_are_opaque(tmp_path):
    folder = write_nerfstudio(tmp_path / "d", (ring(2, WIDTH, HEIGHT), [image[..., :3] for image in blank(2)]))
    read = read_images(read_frames(folder / "transforms.json", read_document(folder / "transforms.json")))
    assert not read.has_alpha
    assert read.alpha.shape == (2, HEIGHT, WIDTH, 1)


def test_a_smaller_image_is_the_mean_of_what_is_seen(tmp_path):
    """Colours are averaged by alpha: beside transparent black, half covered white stays white."""
    image = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    image[0, 0] = 255
    path = write_blender(tmp_path / "d", {"train": (ring(1, WIDTH, HEIGHT), [image])}) / "transforms_train.json"
    frames = read_frames(path, read_document(path))
    read = read_images(frames, downscale=2)
    assert read.rgb[0, 0, 0].tolist() == pytest.approx([1.0] * 3)
    assert float(read.alpha[0, 0, 0]) == pytest.approx(0.25)
    assert (read.cameras.height, read.cameras.width) == (HEIGHT // 2, WIDTH // 2)
    with pytest.raises(UserError, match="downscale=7 does not divide the 40 x 30 pixels"):
        read_images(frames, downscale=7)


def test_masks_and_depths_are_read(tmp_path):
    """A depth file holds z along the optical axis; a ray at angle a to it has gone z / cos a."""

    def add(document):
        document["frames"][0] |= {"mask_path": "mask.png", "depth_file_path": "depth.png"}
        document["frames"][1] |= {"depth_file_path": "depth.npy"}

    folder = write_nerfstudio(tmp_path / "d", (ring(3, WIDTH, HEIGHT), blank(3)), add)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:, :10] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    depth = np.full((HEIGHT, WIDTH), 2000, np.uint16)
    depth[0, 0] = 0
    Image.fromarray(depth).save(folder / "depth.png")
    np.save(folder / "depth.npy", np.where(depth == 0, np.nan, 3000.0))
    path = folder / "transforms.json"
    read = read_images(read_frames(path, read_document(path)), depth_unit=0.001)
    assert read.mask is not None
    assert read.mask[0].sum() == 10 * HEIGHT
    assert bool((read.mask[1:] == 1).all())
    assert read.depth is not None
    tangent = math.tan(math.radians(20))
    y, x = (1 - 2 * 10.5 / HEIGHT) * tangent, (2 * 7.5 / WIDTH - 1) * tangent * WIDTH / HEIGHT
    assert float(read.depth[0, 10, 7]) == pytest.approx(2 * math.sqrt(1 + x * x + y * y), rel=1e-5)
    assert float(read.depth[1, 10, 7]) == pytest.approx(3 * math.sqrt(1 + x * x + y * y), rel=1e-5)
    assert read.depth[:, 0, 0, 0].tolist() == [0, 0, 0]
    assert float(read.depth[2].abs().sum()) == 0


def test_normals_are_read_as_unit_directions_and_what_is_none_is_unknown(tmp_path):
    folder = write_nerfstudio(
        tmp_path / "d",
        (ring(2, WIDTH, HEIGHT), blank(2)),
        lambda document: document["frames"][0].update(normal_file_path="normal.png"),
    )
    stored = np.full((HEIGHT, WIDTH, 4), 255, np.uint8)
    stored[..., :3] = [255, 128, 128]  # +x
    stored[0, 0, :3] = 128  # no direction
    stored[1, 1, 3] = 0
    stored[2, 2, :3] = [128, 0, 255]  # (0, -1, 1) / sqrt 2
    Image.fromarray(stored).save(folder / "normal.png")
    path = folder / "transforms.json"
    normal = read_images(read_frames(path, read_document(path))).normal
    assert normal is not None
    assert normal.shape == (2, HEIGHT, WIDTH, 3)
    assert normal[0, 5, 5].tolist() == pytest.approx([1, 0, 0], abs=6e-3)
    assert normal[0, 2, 2].tolist() == pytest.approx([0, -math.sqrt(0.5), math.sqrt(0.5)], abs=6e-3)
    assert not normal[0, 0, 0].any()
    assert not normal[0, 1, 1].any()
    assert not normal[1].any()
    for picture, message in ((stored[:9], "does not have the size"), (stored[..., 0], "no RGB image of 8 bits")):
        Image.fromarray(picture).save(folder / "normal.png")
        with pytest.raises(UserError, match=message):
            read_images(read_frames(path, read_document(path)))


def test_a_weight_of_normals_wants_normal_maps_which_are_read_for_it_alone(tmp_path):
    def add(document):
        for frame in document["frames"]:
            frame["normal_file_path"] = "normal.png"

    views = barrel_views(ring(9))
    with pytest.raises(UserError, match="has a normal_file_path"):
        read_scene(str(write_nerfstudio(tmp_path / "plain", views)), Images(normal=1.0))
    folder = write_nerfstudio(tmp_path / "d", views, add)
    Image.fromarray(np.full((24, 24, 3), 255, np.uint8)).save(folder / "normal.png")
    normal = read_scene(str(folder), Images(normal=1.0)).train.normal
    assert normal is not None
    assert normal.shape == (7, 24, 24, 3)
    assert read_scene(str(folder), Images()).train.normal is None


def names(frames: list[Frame]) -> list[str]:
    return [frame.image.stem for frame in frames]


def test_splits_of_blender_folders(tmp_path):
    cameras = ring(9, WIDTH, HEIGHT)
    every = (cameras, blank(9))
    three = write_blender(tmp_path / "3", {split: (cameras[:2], blank(2)) for split in ("train", "val", "test")})
    assert read_splits(three, 8).test[0].image.parent.name == "test"
    (three / "transforms_test.json").unlink()
    assert read_splits(three, 8).test[0].image.parent.name == "val"
    alone = read_splits(write_blender(tmp_path / "1", {"train": every}), 4)
    assert names(alone.test) == ["r_0", "r_4", "r_8"]
    assert names(alone.train) == ["r_1", "r_2", "r_3", "r_5", "r_6", "r_7"]


def test_splits_of_nerfstudio_folders(tmp_path):
    frames = (ring(4, WIDTH, HEIGHT), blank(4))
    file = "images/frame_{:05d}.png".format

    def read(number: int, **lists: list[str]):
        return read_splits(write_nerfstudio(tmp_path / str(number), frames, lambda document: document.update(lists)), 2)

    assert names(read(0).test) == ["frame_00000", "frame_00002"]
    named = read(1, test_filenames=[file(3)], val_filenames=[file(1)])
    assert (names(named.train), names(named.test)) == (["frame_00000", "frame_00001", "frame_00002"], ["frame_00003"])
    assert names(read(2, train_filenames=[file(1), file(2)], val_filenames=[file(0)]).train) == ["frame_00001", "frame_00002"]
    rest = read(3, train_filenames=[file(1), file(2)])
    assert names(rest.test) == ["frame_00000", "frame_00003"]
    with pytest.raises(UserError, match=r"test_filenames names 'x\.png', which is no frame"):
        read(4, test_filenames=["x.png"])
    with pytest.raises(UserError, match="every image is kept for the test"):
        read(5, test_filenames=[file(number) for number in range(4)])


def entry(document: dict, **values) -> None:
    document["frames"][1] |= values


def matrix(*changes: tuple[int, int, float]) -> list[list[float]]:
    made = np.eye(4)
    for row, column, value in changes:
        made[row, column] = value
    return made.tolist()


WRONG = {
    "lens distortion k1=0.1": lambda d: d.update(k1=0.1),
    "is no pinhole: undistort": lambda d: d.update(camera_model="OPENCV_FISHEYE"),
    "the principal point cx=19.0 is off the middle": lambda d: d.update(cx=19.0),
    "the principal point cy=16.0 is off": lambda d: entry(d, cy=16.0),
    "the focal lengths .* differ: scale the images": lambda d: d.update(fl_x=d["fl_y"] * 1.002),
    "neither fl_x nor camera_angle_x": lambda d: [d.pop("fl_x"), d.pop("fl_y")],
    "fl_x must be above 0": lambda d: d.update(fl_x=0),
    "fl_y must be a finite number, got 'wide'": lambda d: d.update(fl_y="wide"),
    "w is 80, but the image has 40 x 30": lambda d: d.update(w=80),
    "names 'images/lost.png', which is not there": lambda d: entry(d, file_path="images/lost.png"),
    "names 'xxxx": lambda d: entry(d, file_path="x" * 5000),
    "names 'gone.png', which is not there": lambda d: entry(d, mask_path="gone.png"),
    "file_path is missing": lambda d: d["frames"][1].pop("file_path"),
    "no rotation and translation": lambda d: entry(d, transform_matrix=matrix((0, 0, 2.0))),
    "is no rotation and trans": lambda d: entry(d, transform_matrix=matrix((0, 0, -1.0))),
    "must be 4 x 4 numbers": lambda d: entry(d, transform_matrix=[[1, 2], [3]]),
    "a number that is not finite": lambda d: entry(d, transform_matrix=matrix((1, 3, math.nan))),
    "lists no image": lambda d: d.update(frames=[]),
    "has no list of frames": lambda d: d.update(frames={"a": 1}),
}


def refused(work) -> str:
    with pytest.raises(UserError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    assert ": " in message, "what is wrong, then what to do"
    return message


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_with_a_camera_file_is_one_line(tmp_path, message):
    folder = write_nerfstudio(tmp_path / "d", (ring(3, WIDTH, HEIGHT), blank(3)), WRONG[message])
    with pytest.raises(UserError, match=message):
        read_splits(folder, 8)
    assert "transforms.json" in refused(lambda: read_splits(folder, 8))


def test_slight_differences_of_a_camera_are_let_pass(tmp_path):
    def change(document):
        document.update(cx=WIDTH / 2 + 0.5, fl_x=document["fl_y"] * 1.0005)

    assert read_splits(write_nerfstudio(tmp_path / "d", (ring(3, WIDTH, HEIGHT), blank(3)), change), 2).train


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000, b'{"frames": [1]}', b"null"])
def test_a_camera_file_that_is_none_is_named(tmp_path, content):
    (tmp_path / "transforms.json").write_bytes(content)
    assert "transforms.json" in refused(lambda: read_splits(tmp_path, 8))


def test_folders_of_neither_format_and_single_images_are_refused(tmp_path):
    assert "neither transforms_train.json nor transforms.json" in refused(lambda: read_splits(tmp_path, 8))
    one = write_blender(tmp_path / "one", {"train": (ring(1, WIDTH, HEIGHT), blank(1))})
    assert "is the only image" in refused(lambda: read_splits(one, 8))


def test_damaged_images_are_found_before_work_starts(tmp_path):
    cameras = ring(4)
    frames = barrel_views(cameras)
    for damage, message in ((lambda data: data[: len(data) // 2], "damaged or cut off"), (lambda data: b"no image", "no image that")):
        for split in ("train", "test"):
            folder = write_blender(tmp_path / f"{message}{split}", {"train": frames, "test": frames})
            victim = folder / split / "r_2.png"
            victim.write_bytes(damage(victim.read_bytes()))
            said = refused(lambda folder=folder: read_scene(str(folder), Images()))
            assert message in said
            assert "r_2.png" in said


def test_images_of_several_sizes_are_refused(tmp_path):
    folder = write_blender(tmp_path / "d", {"train": barrel_views(ring(3)), "test": barrel_views(ring(2, 16, 16))})
    assert "has 16 x 16 pixels" in refused(lambda: read_splits(folder, 8))


def test_deep_colours_are_refused(tmp_path):
    folder = write_blender(tmp_path / "d", {"train": barrel_views(ring(3))})
    Image.fromarray(np.zeros((24, 24), np.uint16)).save(folder / "train" / "r_1.png")
    assert "more than 8 bits" in refused(lambda: read_scene(str(folder), Images()))


def test_a_mask_of_another_size_is_refused(tmp_path):
    folder = write_nerfstudio(tmp_path / "d", barrel_views(ring(4)), lambda d: entry(d, mask_path="mask.png"))
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(folder / "mask.png")
    assert "does not have the size of its image" in refused(lambda: read_scene(str(folder), Images()))
