"""What a network computes with what, as a graph: from a symbolic trace, without inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn


class _Whole(fx.Tracer):
    """Takes every module that owns a parameter as one node, torch's own or not."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        owns = any(True for _ in m.parameters(recurse=False))
        return owns or super().is_leaf_module(m, module_qualified_name)


def graph_of(network: nn.Module) -> fx.Graph | None:
    """Trace a network; None where its forward is no fixed graph (it looks at values, or at shapes)."""
    try:
        return _Whole().trace(network)
    except Exception:  # whatever a forward does with a stand-in for a tensor
        return None


def layers_of(graph: fx.Graph, network: nn.Module, params: Mapping[str, nn.Parameter]) -> dict[str, list[fx.Node]]:
    """The nodes that compute with each parameter: calls of the module that owns it, and what reads it by itself."""
    names = {id(parameter): name for name, parameter in params.items()}
    found: dict[str, list[fx.Node]] = {name: [] for name in params}
    for node in graph.nodes:
        if node.op == "call_module":
            for parameter in network.get_submodule(str(node.target)).parameters():
                if id(parameter) in names:
                    found[names[id(parameter)]].append(node)
        elif node.op == "get_attr":
            owner, _, attribute = str(node.target).rpartition(".")
            read = getattr(network.get_submodule(owner), attribute, None)
            if id(read) in names:
                found[names[id(read)]].extend(node.users)
    return found
