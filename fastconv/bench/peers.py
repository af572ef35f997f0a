"""The libraries fastconv is compared with: one small class each.

A peer imports its library when it is made, so that a missing one costs nothing until it is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np

from fastconv.bench.shapes import Layer

INSTALL_HINT = 'pip install "fastconv[bench]"'

# Every library keeps its own threads, and after a parallel region libgomp's go on spinning for 5 ms: on a machine
# with few cores they would take a core away from whoever is timed next. Told to stop after 10,000 spins they burn
# under 0.5 ms, while calls in a row still find them awake. OMP_WAIT_POLICY=passive would stop them at once, but
# makes a parallel region cost 35-75 us instead of 2 us, which no user has. The runner pauses between contestants for
# longer than this and wakes each one's threads by an untimed call.
QUIET_POOLS = {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}
PAUSE = 2e-3


def quieten_pools() -> None:
    """Set the environment that keeps idle threads from spinning; works until the OpenMP libraries are loaded."""
    for name, value in QUIET_POOLS.items():
        os.environ.setdefault(name, value)


class Peer:
    """A library that can run a layer.

    `prepared` says whether `prepare` may transform the weights ahead of the timed calls; such a peer is compared with
    our prepared layers only.
    """

    name: ClassVar[str]
    library: ClassVar[str]
    prepared: ClassVar[bool] = False
    version: str

    def refuses(self, layer: Layer, dtype: str) -> str | None:
        """Why this peer cannot run the layer, or None."""
        return None

    def refuses_gradients(self, layer: Layer, direction: str) -> str | None:
        """Why this peer cannot compute the layer's gradients or its transposed convolution, or None."""
        return "only compared in the forward direction"

    def prepare_gradient(
        self, layer: Layer, direction: str, data: tuple[np.ndarray, np.ndarray, np.ndarray], output_padding: Any
    ) -> Callable[[], Any]:
        """The call to time, of (x, weight, gradient of the output)."""
        raise NotImplementedError

    def set_threads(self, threads: int) -> None:
        """How many threads the layers prepared from now on may use."""

    def session(self) -> AbstractContextManager[Any]:
        """Wraps all calls of a pass, for what would otherwise be timed with each call."""
        return nullcontext()

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        """The call to time."""
        raise NotImplementedError

    def numpy(self, result: Any) -> np.ndarray:
        """The result of a call as an array in N, C, spatial order."""
        return np.asarray(result)


class Torch(Peer):
    """PyTorch in its default layout (oneDNN underneath), functional."""

    name = "torch"
    library = "torch"

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.version = torch.__version__

    def set_threads(self, threads: int) -> None:
        self.torch.set_num_threads(threads)

    def session(self) -> AbstractContextManager[Any]:
        return self.torch.inference_mode()

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        functional = self.torch.nn.functional
        conv = (functional.conv1d, functional.conv2d, functional.conv3d)[layer.ndim - 1]
        tensors = self._layout(self.torch.from_numpy(x)), self._layout(self.torch.from_numpy(weight))
        options = layer.options
        return lambda: conv(*tensors, **options)

    def refuses_gradients(self, layer: Layer, direction: str) -> str | None:
        return None

    def prepare_gradient(
        self, layer: Layer, direction: str, data: tuple[np.ndarray, np.ndarray, np.ndarray], output_padding: Any
    ) -> Callable[[], Any]:
        x, weight, g = (self._layout(self.torch.from_numpy(array)) for array in data)
        if direction == "transpose":
            functional = self.torch.nn.functional
            conv = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)
            return partial(conv[layer.ndim - 1], g, weight, output_padding=output_padding, **layer.options)
        mask = [direction in ("input", "backward"), direction in ("weight", "backward"), False]
        return partial(
            self.torch.ops.aten.convolution_backward, g, x, weight, None, layer.stride, layer.padding, layer.dilation,
            False, [0] * layer.ndim, layer.groups, mask,
        )  # fmt: skip

    def _layout(self, tensor: Any) -> Any:
        return tensor

    def numpy(self, result: Any) -> np.ndarray:
        if not isinstance(result, tuple):
            return result.numpy()
        parts = [part.numpy() for part in result if part is not None]
        return parts[0] if len(parts) == 1 else np.concatenate([part.reshape(-1) for part in parts])


class TorchChannelsLast(Torch):
    """PyTorch with input and weight in channels_last."""

    name = "torch-nhwc"

    def refuses(self, layer: Layer, dtype: str) -> str | None:
        return "PyTorch has no channels_last layout in 1-D" if layer.ndim == 1 else None

    def refuses_gradients(self, layer: Layer, direction: str) -> str | None:
        return self.refuses(layer, "float32")

    def _layout(self, tensor: Any) -> Any:
        formats = {4: self.torch.channels_last, 5: self.torch.channels_last_3d}
        return tensor.to(memory_format=formats[tensor.ndim])


class OpenCV(Peer):
    """`cv2.filter2D`, plane by plane."""

    name = "opencv"
    library = "opencv"

    def __init__(self) -> None:
        import cv2

        self.cv2 = cv2
        self.version = cv2.__version__

    def refuses(self, layer: Layer, dtype: str) -> str | None:
        if layer.ndim != 2 or not layer.c == layer.oc == layer.groups <= 4 or layer.n != 1:
            return "filter2D takes one 2-D image, and one kernel for each of its planes"
        centred = all(k % 2 and p == k // 2 for k, p in zip(layer.kernel, layer.padding, strict=True))
        if not centred or set(layer.stride + layer.dilation) != {1}:
            return "filter2D takes odd kernels, stride 1 and padding that keeps the size"
        return None

    def set_threads(self, threads: int) -> None:
        self.cv2.setNumThreads(threads)

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        filter2d, border = self.cv2.filter2D, self.cv2.BORDER_CONSTANT
        pairs = list(zip(x[0], weight[:, 0], strict=True))
        return lambda: [filter2d(plane, -1, kernel, borderType=border) for plane, kernel in pairs]

    def numpy(self, result: Any) -> np.ndarray:
        return np.stack(result)[None]


class SciPyFFT(Peer):
    """`scipy.signal.fftconvolve`."""

    name = "fftconvolve"
    library = "scipy"

    def __init__(self) -> None:
        import scipy
        import scipy.fft
        import scipy.signal

        self.scipy = scipy
        self.version = scipy.__version__
        self.threads = 1

    def refuses(self, layer: Layer, dtype: str) -> str | None:
        if not layer.c == layer.oc == layer.groups == 1:
            return "scipy.signal takes one channel"
        if set(layer.stride + layer.dilation) != {1}:
            return "scipy.signal takes stride 1 and no dilation"
        return None

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def session(self) -> AbstractContextManager[Any]:
        return self.scipy.fft.set_workers(self.threads)

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        convolve = getattr(self.scipy.signal, self.name)
        axes = tuple(range(2, layer.ndim + 2))
        flipped = np.flip(weight, axes).copy()
        # The full convolution begins k - 1 cells before the input, ours `padding` cells before it.
        first = [k - 1 - p for k, p in zip(layer.kernel, layer.padding, strict=True)]
        if min(first) < 0:
            raise ValueError("padding is wider than the kernel")
        window = (..., *(slice(f, f + size) for f, size in zip(first, layer.spec.output, strict=True)))
        return lambda: convolve(x, flipped, mode="full", axes=axes)[window]


class SciPyOverlapAdd(SciPyFFT):
    """`scipy.signal.oaconvolve`."""

    name = "oaconvolve"


class OnnxRuntime(Peer):
    """A one-node ONNX model; input and output are bound, so that no copy is timed."""

    name = "onnxruntime"
    library = "onnxruntime"
    prepared = True

    def __init__(self) -> None:
        import onnx
        import onnxruntime

        self.onnx, self.ort = onnx, onnxruntime
        self.version = onnxruntime.__version__
        self.threads = 1

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        helper = self.onnx.helper
        node = helper.make_node(
            "Conv", ["x", "w"], ["y"],
            strides=layer.stride, pads=layer.padding * 2, dilations=layer.dilation, group=layer.groups,
        )  # fmt: skip
        dtype = helper.np_dtype_to_tensor_dtype(x.dtype)
        graph = helper.make_graph(
            [node],
            "layer",
            [helper.make_tensor_value_info("x", dtype, x.shape)],
            [helper.make_tensor_value_info("y", dtype, layer.spec.out_shape)],
            [self.onnx.numpy_helper.from_array(weight, "w")],
        )
        # Old format versions: every onnxruntime of the last years reads them.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = self.ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        options.log_severity_level = 3
        # Its threads may spin during a call but not after it: as fast, and no load on the next contestant.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = self.ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_ortvalue_input("x", self.ort.OrtValue.ortvalue_from_numpy(x))
        output = self.ort.OrtValue.ortvalue_from_shape_and_type(layer.spec.out_shape, x.dtype)
        binding.bind_ortvalue_output("y", output)

        def call() -> Any:
            session.run_with_iobinding(binding)
            return output

        return call

    def numpy(self, result: Any) -> np.ndarray:
        return result.numpy()


class OpenVINO(Peer):
    """A one-node OpenVINO model, computed in float32."""

    name = "openvino"
    library = "openvino"
    prepared = True

    def __init__(self) -> None:
        import openvino
        from openvino import opset13

        self.openvino, self.ops = openvino, opset13
        self.version = openvino.__version__.partition("-")[0]
        self.core = openvino.Core()
        self.threads = 1

    def refuses(self, layer: Layer, dtype: str) -> str | None:
        return None if dtype == "float32" else "OpenVINO computes in float32"

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        ops, g = self.ops, layer.groups
        parameter = ops.parameter(x.shape, dtype=np.float32)
        sizes = [list(v) for v in (layer.stride, layer.padding, layer.padding, layer.dilation)]
        if g == 1:
            node = ops.convolution(parameter, ops.constant(weight), *sizes)
        else:
            grouped = weight.reshape(g, layer.oc // g, *weight.shape[1:])
            node = ops.group_convolution(parameter, ops.constant(grouped), *sizes)
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # it would pin the calling thread, which the others use too
        }
        compiled = self.core.compile_model(self.openvino.Model([node], [parameter]), "CPU", config)
        request = compiled.create_infer_request()
        request.set_input_tensor(self.openvino.Tensor(x, shared_memory=True))

        def call() -> Any:
            request.infer()
            return request

        return call

    def numpy(self, result: Any) -> np.ndarray:
        return result.get_output_tensor().data


class Ncnn(Peer):
    """A one-layer ncnn network in float32, written in ncnn's own model format."""

    name = "ncnn"
    library = "ncnn"
    prepared = True

    def __init__(self) -> None:
        import ncnn

        self.ncnn = ncnn
        self.version = ncnn.__version__
        self.threads = 1

    def refuses(self, layer: Layer, dtype: str) -> str | None:
        if dtype != "float32":
            return "ncnn computes in float32"
        return None if layer.n == 1 else "ncnn takes one image at a time"

    def set_threads(self, threads: int) -> None:
        self.threads = threads

    def prepare(self, layer: Layer, x: np.ndarray, weight: np.ndarray) -> Callable[[], Any]:
        net = self.ncnn.Net()
        net.opt.num_threads = self.threads
        for name in dir(net.opt):
            if "fp16" in name or "bf16" in name:
                setattr(net.opt, name, False)
        kind = "Convolution" + ("DepthWise" if layer.groups > 1 else "") + {1: "1D", 2: "", 3: "3D"}[layer.ndim]
        # Parameter numbers of w, h and d: 1, 11, 21 are the kernel, 2.. its dilation, 3.. its stride.
        numbers = {0: layer.oc, 5: 0, 6: weight.size}
        if layer.groups > 1:
            numbers[7] = layer.groups
        for first, values in ((1, layer.kernel), (2, layer.dilation), (3, layer.stride)):
            numbers |= {first + 10 * axis: value for axis, value in enumerate(reversed(values))}
        for ends, value in zip(((4, 15), (14, 16), (24, 17)), reversed(layer.padding), strict=False):
            numbers |= dict.fromkeys(ends, value)
        parameters = " ".join(f"{key}={value}" for key, value in numbers.items())
        if net.load_param_mem(f"7767517\n2 2\nInput data 0 1 data\n{kind} conv 1 1 data out {parameters}\n"):
            raise RuntimeError(f"ncnn does not take the layer {kind} {parameters}")
        float32_tag = bytes(4)
        net.load_model_mem(float32_tag + weight.tobytes())
        image = self.ncnn.Mat(x[0]).clone()  # its channels are aligned; those of a wrapped array are not

        def call() -> Any:
            extractor = net.create_extractor()
            extractor.input("data", image)
            return extractor.extract("out")[1]

        return call

    def numpy(self, result: Any) -> np.ndarray:
        return np.array(result)[None]


# What may be asked for by name; a name may stand for several contestants.
PEERS: dict[str, tuple[type[Peer], ...]] = {
    "torch": (Torch, TorchChannelsLast),
    "opencv": (OpenCV,),
    "scipy": (SciPyFFT, SciPyOverlapAdd),
    "onnxruntime": (OnnxRuntime,),
    "openvino": (OpenVINO,),
    "ncnn": (Ncnn,),
}
CONTESTANTS = {peer.name: peer for peers in PEERS.values() for peer in peers}


def load(names: list[str]) -> tuple[list[Peer], list[str]]:
    """The peers that are installed, and a line for each that is not."""
    peers: list[Peer] = []
    problems = []
    for name in names:
        if name not in PEERS:
            raise ValueError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
        try:
            peers += [peer() for peer in PEERS[name]]
        except ImportError as error:
            problems.append(f"{name} is left out ({error}): {INSTALL_HINT}")
    return peers, problems
