#!/bin/sh
# Called again and again while the root file system is not there. `rd.retry=SECONDS` on the kernel's command line says how long.
. /lib/aoe-functions
aoe_start
