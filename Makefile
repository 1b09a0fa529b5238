PYTHON ?= python3
TUNER_BASE_IMAGE ?= python:3.11-slim

.PHONY: images image-triton

# Images of the engines that have no small one of their own.
images: image-triton

image-triton:
	docker build --build-arg BASE=$(TUNER_BASE_IMAGE) -t serving-tuner/triton:2.51 runners/images/triton
