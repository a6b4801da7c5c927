"""File formats that other people defined: COCO, wsolevaluation, image files, JSON, safetensors."""
