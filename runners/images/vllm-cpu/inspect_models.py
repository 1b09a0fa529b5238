"""Writes down what vLLM would otherwise find out at every start: what each model class is able to do.

vLLM inspects the class of the model in a process of its own, which imports everything once more, and keeps the
answer in its cache folder. A container that starts from a clean slate would do so in every trial.
"""

import sys
from pathlib import Path

from vllm.model_executor.models.registry import _TEXT_GENERATION_MODELS, ModelRegistry, _ModelInfo


def main() -> None:
    written, skipped = 0, []
    for architecture in sorted(_TEXT_GENERATION_MODELS):
        model = ModelRegistry.models[architecture]
        try:
            abilities = _ModelInfo.from_model_cls(model.load_model_cls())
        except Exception as error:  # it needs a GPU, or a package that this image does without
            skipped.append(f"{architecture}: {error}")
            continue
        source = sys.modules[model.module_name].__file__
        model._save_modelinfo_to_cache(abilities, model._get_modelinfo_module_hash(Path(source or "")))
        written += 1
    print(f"{written} model classes inspected. Left to the server's start: {'; '.join(skipped) or 'none'}")


if __name__ == "__main__":
    main()
