"""What survival minimises: Cox's negative partial log-likelihood, ties as Breslow has them.

Cox 1972 (J. R. Stat. Soc. B 34), Breslow 1974 (Biometrics 30). Patients are compared with those of their batch alone,
so with those of their site alone: federated, this is the stratified Cox model, in which each site has a baseline hazard
of its own and the effects of features are common (Kalbfleisch and Prentice 2002, section 4.4). No time leaves a site.
A mean over patients, and not over events, is what makes it so: sites weigh by their patients, which gives the sum of
their partial likelihoods, whatever their shares of events are.
"""

import torch


def cox_loss(log_risk: torch.Tensor, times: torch.Tensor, events: torch.Tensor) -> torch.Tensor:
    """The sum over events of log(sum of the risks of those under observation then) - log-risk, by n; all are [n].

    `times` are those of the event or of the last observation, in any unit; `events` is 1 for an event and 0 for a
    patient who was lost to follow-up. Those under observation are all whose time is as late or later. Gives 0, with a
    gradient of 0, where no event is in the batch.
    """
    # n numbers, on the CPU: a running sum on a GPU has other bits each time
    risks, times, events = log_risk.cpu().double(), times.cpu().double(), events.cpu().double()
    order = torch.argsort(times, descending=True, stable=True)
    risks, times, events = risks[order], times[order], events[order]
    last = torch.searchsorted(-times, -times, right=True) - 1  # of those with the same time
    under_observation = torch.logcumsumexp(risks, dim=0)[last]
    loss = (events * (under_observation - risks)).mean()
    return loss.to(log_risk.device, torch.float32)
