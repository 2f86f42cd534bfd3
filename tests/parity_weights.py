"""Networks of torch with weights by NumPy: what their state dicts hold and what they answer in evaluation mode."""

import functools
import zlib

import numpy as np

INPUTS = {  # of torch's layouts
    "mlp": (5, 3),
    "nested": (5, 3),
    "cnn": (4, 3, 8, 8),
    "by_hand": (4, 2, 6, 6),
    "groups": (3, 4, 10),
    "words": (4, 6),
    "colours": (2, 3, 4, 4),
    "pooled": (2, 3, 4, 4),
    "branches": (2, 1, 3, 3),
}


def inputs(name):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name == "words":
        return rng.integers(0, 11, size=INPUTS[name])
    return rng.normal(size=INPUTS[name]).astype(np.float32)


def network(name):
    """The network of a case, in evaluation mode."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, features):
            super().__init__()
            self.norm = nn.LayerNorm(features)
            self.linear = nn.Linear(features, features, bias=False)
            self.gain = nn.Parameter(torch.ones(features))

        def forward(self, x):
            return x + self.gain * torch.tanh(self.linear(self.norm(x)))

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Linear(3, 4)
            self.blocks = nn.ModuleList([Block(4), Block(4)])
            self.shift = nn.Parameter(torch.zeros(4))
            self.register_buffer("center", torch.zeros(4))
            self.head = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))

        def forward(self, x):
            x = self.stem(x) + self.shift - self.center
            for block in self.blocks:
                x = block(x)
            return self.head(x)

    class ByHand(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
            self.fc1 = nn.Linear(4 * 36, 5)
            self.norm = nn.BatchNorm1d(5)
            self.fc2 = nn.Linear(5, 2)

        def forward(self, x):
            x = torch.relu(self.conv1(x)).flatten(1)
            return self.fc2(torch.relu(self.norm(self.fc1(x))))

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(11, 4)
            self.norm = nn.LayerNorm(4)
            self.out = nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.norm(self.table(x)).mean(1))

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Conv2d(1, 4, 3, padding=1)
            self.narrow = nn.Conv2d(1, 2, 1)

        def forward(self, x):
            return torch.cat([self.wide(x), self.narrow(x), x], 1)

    built = {
        "mlp": lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)),
        "nested": Nested,
        "cnn": lambda: nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Conv2d(6, 3, (3, 1), stride=(1, 2), bias=False),
            nn.ReLU(),
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 7)),
            nn.ReLU(),
            nn.Linear(7, 5),
        ),
        "by_hand": ByHand,
        "groups": lambda: nn.Sequential(
            nn.Conv1d(4, 6, 3, groups=2),
            nn.BatchNorm1d(6),
            nn.ReLU(),
            nn.Conv1d(6, 4, 2, dilation=2),
            nn.LayerNorm((4, 6)),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        "words": Words,
        "colours": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 5)),
        "pooled": lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(12, 5)),
        "branches": lambda: nn.Sequential(Branches(), nn.ReLU(), nn.Flatten(), nn.Linear(63, 10)),
    }
    return built[name]().eval()


def filled(name):
    """The network with weights by NumPy, all of them positive where torch takes a root of them."""
    import torch

    net = network(name)
    rng = np.random.default_rng(zlib.crc32(f"weights of {name}".encode()))
    weights = {}
    for entry, tensor in net.state_dict().items():
        values = rng.normal(size=tuple(tensor.shape)) / 2 if tensor.ndim else 0
        values = np.exp(values) if entry.endswith("running_var") else values
        weights[entry] = torch.from_numpy(np.asarray(values)).to(tensor.dtype)
    net.load_state_dict(weights)
    return net


def by_torch(name):
    import torch

    net = filled(name)
    with torch.no_grad():
        output = net(torch.from_numpy(inputs(name))).numpy()
    return {"output": output} | {f"weight:{entry}": tensor.numpy() for entry, tensor in net.state_dict().items()}


def cases():
    return {name: functools.partial(by_torch, name) for name in INPUTS}
