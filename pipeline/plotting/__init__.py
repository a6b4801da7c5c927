"""Pictures drawn from arrays: colour maps, contact sheets, charts, boxes on images."""
