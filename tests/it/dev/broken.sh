#!/bin/sh
# Stands in for a child that cannot work.
echo "this cannot work"
exit 3
