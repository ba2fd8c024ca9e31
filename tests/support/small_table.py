"""A paper's table that runs in a second."""

TABLE = """
title: Fake (2015), A Paper
summary: a table of three rows on digits, for tests alone
recipe:
  data: {kind: digits}
  validation: {last: 300}
  teacher: {model: {kind: mlp, hidden: [16]}, training: {epochs: 8, batch_size: 32}, seed: null}
  student: {model: {kind: mlp, hidden: [4]}}
  training: {epochs: 6, batch_size: 32}
seeds: {reduced: [0, 1], full: [0]}
budgets:
  full: {}
  reduced: {data.first: 600, training.epochs: 4}
figures:
  errors: {measure: errors}
  agreement: {measure: agreement_percent}
rows:
  teacher:
    title: the teacher
    role: teacher
    figures: {errors: {paper: 10, at_most: 100}}
  alone:
    title: the student alone
    role: alone
    set: {search: {training.learning_rate: [0.03, 0.1]}}
    figures: {errors: null}
  taught:
    title: the student taught
    set: {search: {training.learning_rate: [0.03, 0.1], method.temperature: [2.0]}}
    figures:
      errors: null
      agreement: null
      fewer than alone: {measure: errors, below: alone}
      fewer than that: {figure: fewer than alone, above: {figure: errors}}
"""
