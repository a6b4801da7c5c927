"""The views of stage inspect, a file each, found by its name in `inspect.views`.

    reads_data(options)   whether the view reads images of the split, with these options of inspect
    make(inspection)      writes <view>.png and <view>.json, tells what it could not show
    cache_key(run)          optional: what can change it beside options, seed, checkpoint and images

A new view is such a file and its name in INSPECTS of pipeline/engine/config.py. What several views
need is in pipeline/stages/inspect/inspection.py and inspect_*.py, formulas that stand alone in
pipeline/inspect. None imports torch before it is made: that a result is there already must be
found in no time.
"""
