"""Stand-in for `slicer.parameterNodeWrapper`, which slicer-core lacks: typed parameters in a real
vtkMRMLScriptedModuleNode.

Like Slicer's (5.6 to 5.12) in what a module or a saved scene can notice: types are looked up in the module of
the class; a text is the parameter of its name; a node is a node reference with its name as role, and an empty
parameter that says that it was set; defaults are written at once; a wrong type is refused; values are read
when the node says that it was modified, and are those of that moment. Here are texts and nodes alone: another
type is refused at the class, so that nobody takes it for tested.
"""

from __future__ import annotations

import typing
import weakref
from collections.abc import Callable
from typing import Any

import slicer
import slicer.util
import vtk

# Methods that Slicer's decorator adds; a parameter cannot have such a name.
RESERVED = (
    *(
        "allParameters",
        "default",
        "isCached",
        "dataType",
        "getValue",
        "setValue",
        "connectGui",
        "connectParametersToGui",
        "disconnectGui",
    ),
    *("StartModify", "EndModify", "AddObserver", "RemoveObserver", "Modified", "parameterNode"),
)


def parameterNodeWrapper(described: type) -> type:
    """Class decorator: ``described`` becomes a wrapper of one parameter node."""
    parameters = {}
    for name, kind in typing.get_type_hints(described, include_extras=True).items():
        if name in RESERVED:
            raise ValueError(f"Cannot use reserved name {name!r} in a parameterNodeWrapper")
        is_node = isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode)
        if kind is not str and not is_node:
            raise TypeError(f"The stand-in has no serializer for {kind!r}, the type of {name!r}")
        parameters[name] = _Parameter(name, kind, getattr(described, name, None if is_node else ""))
        setattr(described, name, _property(name))
    methods: dict[str, Callable[..., Any]] = {
        "__init__": _initialize,
        "AddObserver": lambda self, event, step, priority=0.0: self.parameterNode.AddObserver(
            event, step, priority
        ),
        "RemoveObserver": lambda self, tag: self.parameterNode.RemoveObserver(tag),
        "StartModify": lambda self: self.parameterNode.StartModify(),
        "EndModify": lambda self, was: self.parameterNode.EndModify(was),
        "Modified": lambda self: self.parameterNode.Modified(),
    }
    described.allParameters = parameters  # type: ignore[attr-defined]
    for name, method in methods.items():
        setattr(described, name, method)
    return described


class _Parameter:
    """How one parameter is kept."""

    def __init__(self, name: str, kind: type, default: Any) -> None:
        self.name, self.kind, self.default = name, kind, default

    def write(self, node: Any, value: Any) -> None:
        if value is None and self.kind is str:
            raise ValueError("Value must not be None")
        if value is not None and not isinstance(value, self.kind):
            raise TypeError(f"Value must be of type {self.kind}, is {type(value)} {value!r}")
        node.SetParameter(self.name, value if self.kind is str else "")
        if self.kind is not str:
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)

    def read(self, node: Any) -> Any:
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        return node.GetParameter(self.name) if self.kind is str else node.GetNodeReference(self.name)


class _Cached:
    """One parameter of one node; its value is read again when the node was modified."""

    def __init__(self, parameter: _Parameter, node: Any) -> None:
        self._parameter, self._node, self._writing = parameter, node, False
        self.value = parameter.read(node)
        mine = weakref.ref(self)  # else the node would keep it, and its observer, for ever

        def on_modified(*_args: Any) -> None:
            cached = mine()
            if cached is not None and not cached._writing:
                cached.value = parameter.read(node)

        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, on_modified)

    def __del__(self) -> None:
        self._node.RemoveObserver(self._tag)

    def write(self, value: Any) -> None:
        self._writing = True
        try:
            with slicer.util.NodeModify(self._node):  # who observes the node is told when the value is there
                self._parameter.write(self._node, value)
                self.value = self._parameter.read(self._node)
        finally:
            self._writing = False


def _initialize(self: Any, parameterNode: Any, prefix: str | None = None) -> None:
    assert prefix is None, "the stand-in has no prefixes"
    self.parameterNode = parameterNode
    self._cached = {name: _Cached(parameter, parameterNode) for name, parameter in self.allParameters.items()}


def _property(name: str) -> property:
    return property(
        lambda self: self._cached[name].value, lambda self, value: self._cached[name].write(value)
    )
