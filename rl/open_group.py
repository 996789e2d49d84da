"""A group under way: responses that have ended, and the verdicts that some of them still wait for."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field

from lightning_cispo.model.generation.requests import Completion
from lightning_cispo.rewards.verdict import Verdict
from lightning_cispo.rl.types import Group, Prompt, Trajectory


@dataclass
class OpenGroup:
    """By sample; `judged` counts the verdicts that are there."""

    prompt: Prompt
    completions: dict[int, Completion] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    verdicts: dict[int, Future[Verdict]] = field(default_factory=dict)
    judged: int = 0

    def add(self, completion: Completion, text: str, verdict: Future[Verdict]) -> None:
        sample = completion.sample
        self.completions[sample], self.texts[sample], self.verdicts[sample] = completion, text, verdict

    def close(self) -> Group:
        """The group, once all are judged. Raises what a verifier's future raises."""
        trajectories = [
            Trajectory(
                tokens_T=completion.tokens_T,
                loss_mask_T=completion.chosen_T,
                sampler_logprobs_T=completion.logprobs_T,
                versions_T=completion.versions_T,
                stop=completion.stop,
                text=self.texts[sample],
                verdict=self.verdicts[sample].result(),
                sample=sample,
                routing_TLK=completion.routing_TLK,
            )
            for sample, completion in sorted(self.completions.items())
        ]
        return Group(self.prompt, trajectories)
