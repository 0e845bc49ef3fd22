#!/usr/bin/env bash
#SBATCH --job-name=compresso-experiment
#SBATCH --array=1-8
#SBATCH --gpus=1
#SBATCH --time=12:00:00
#SBATCH --requeue
# An experiment as a Slurm array: each task works on the runs that no other task works on, and takes over those of tasks
# that died. Arguments are those of `compresso experiment`; --out is a folder that all nodes see.
# sbatch scripts/cluster/slurm_experiment.sh mine.ts --out /shared/runs/mine
set -euo pipefail
exec deno run -A "${COMPRESSO:-cli/main.ts}" experiment "$@" --shared
