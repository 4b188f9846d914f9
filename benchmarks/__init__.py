"""One file for each question asked; `RESULTS.md` has the answers, `results/` the raw figures."""
