"""A stock Flower app that does nothing, as one would write it: FedAvg, and clients that send back what came.

This file is copied into the bundle that `flwr run` sends, and imports nothing of Fedward.
"""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server = ServerApp()
client = ClientApp()


@client.train()
def _train(message: Message, context: Context) -> Message:
    """The arrays that came, a little changed: equal ones would be stored and sent once, as no update ever is."""
    del context
    step = np.float32(np.random.default_rng().random() * 1e-3)
    came = message.content.array_records["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"num-examples": 100, "loss": 1.0})
    content = RecordDict({"arrays": ArrayRecord([array + step for array in came]), "metrics": metrics})
    return Message(content, reply_to=message)


@client.evaluate()
def _evaluate(message: Message, context: Context) -> Message:
    del context
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 100, "loss": 1.0})}), reply_to=message)


@server.main()
def _main(grid: Grid, context: Context) -> None:
    """Note the time before the first round and after each, a line each."""
    config = context.run_config
    times = Path(str(config["times"]))
    nodes = int(config["nodes"])

    def note(number: int, arrays: ArrayRecord) -> None:
        del number, arrays
        with times.open("a") as file:
            file.write(f"{time.time()}\n")

    shapes = json.loads(str(config["shapes"]))
    arrays = ArrayRecord([np.zeros(shape, np.float32) for shape in shapes])
    strategy = FedAvg(min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes)
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]), evaluate_fn=note)
