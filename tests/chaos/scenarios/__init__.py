"""All scenarios, by name, in the order in which they are run."""

from chaos.scenarios import clients, clocks, cluster, failover, network, servers

SCENARIOS = {
    scenario.name: scenario
    for module in (servers, network, failover, clients, clocks, cluster)
    for scenario in module.ALL
}
