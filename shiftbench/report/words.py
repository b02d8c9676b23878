"""The words of a leaderboard: names of tracks and families, how to read it."""

from __future__ import annotations

from shiftbench.robustness.constants import CONSTANTS

TRACK_NAMES = {
    "dg": "Domain generalisation and source-only",
    "harmonise": "Harmonisation",
    "uda": "Unsupervised domain adaptation",
    "sfda": "Source-free domain adaptation",
    "tta": "Test-time adaptation",
    "fewshot": "Few-shot",
    "posthoc": "Post-hoc",
    "estimate": "Estimators",
    "reference": "Reference",
}
FAMILY_NAMES = {
    "acquisition": "Acquisition",
    "population": "Population",
    "combined": "Combined",
    "real": "Real",
    "annotation": "Annotation",
    "control": "Control",
    "fault": "Fault",
}
SHORT_NAMES = {"acquisition": "acq.", "population": "pop.", "combined": "comb.", "real": "real", "annotation": "ann."}
UNCOMPARABLE = "not ranked: not applicable"  # how the note of a method begins that lacks some targets
DASH = "–"
_ORACLE = (
    "The oracle is trained from scratch on the target's adapt patients alone; with few of them it is no upper bound."
)

READING = f"""\
- **Score.** Mean Dice similarity coefficient (DSC): the structures of a case are averaged first, then the cases of a
  patient, then the patients of a target. A family is the macro mean of its targets; *overall* weighs families equally.
  Controls and faults never enter.
- **Interval.** In brackets, the 95 % interval of the mean. With several seeds it covers patients crossed with seeds
  (two-way random effects). With one seed it covers patients only and is *conditional on this trained model*: it does
  not say how the method would do if it were trained again.
- **Drop** is source-only on the source's test patients minus the method on the target. **Recovered** is the share of
  the gap between source-only and the oracle that the method closes (a ratio of sums over targets); where the lower 95 %
  limit of the gap is not above {CONSTANTS.gap_floor:.2f} DSC, the table says "no gap". **Harmed** is the share of
  patients who lose more than {CONSTANTS.harm:.2f} DSC against source-only of the same seed; with several seeds, the
  share that source-only loses against its own other seeds stands behind it in parentheses.
- **Rank.** Place by the overall mean of those ranked on this board. One method beats another where their difference on
  the same patients and seeds is not zero (two-sided paired t test at {100 * CONSTANTS.tie_p:.0f} %, Holm over all pairs
  of the board). Methods with the same letter are not told apart from the best of their letter. In brackets, the ranks
  that a method may have: from one more than beat it to all but those that it beats. "≈" is practically tied with the
  first: the 95 % interval of the difference lies within {CONSTANTS.tie_margin:.2f} DSC. **P(rank 1)** is the share of
  bootstrap samples of patients crossed with seeds in which a method is first. With one seed all of this is conditional
  on the trained models, and no method is said to beat another in general. With fewer than {CONSTANTS.min_patients}
  patients in a family there are intervals but no rank (where a data set tells of no patients, the image is the unit).
  Rows marked "ref." are for comparison and have no rank. A score with a star leaves out the targets on which the method
  is not applicable; it is not to be compared.
- **Undefined cases.** What the reference shows decides. Where a structure is in the reference, a missed structure and a
  failed, missing or invalid prediction score 0 and stay in the mean. Where it is absent, the case enters no mean of DSC
  or NSD (both empty: true negative; a prediction: false positive). Structures that were not annotated are left out for
  every method alike.
- **FP on negatives.** Of the structures that are not in the reference of their case, how many the method drew all the
  same; a failed prediction counts as drawn. The count is over the predictions on the targets of the overall score.
- **Oracle.** {_ORACLE}
- **Annotation targets** differ from the source in what the annotators drew. They do not rank methods without target
  labels, and do not enter their overall score: such a method predicts the same whatever the hidden protocol is. Its
  score there is to be read beside the *protocol agreement*, the DSC between the two protocols on the same patients,
  which the table of targets gives wherever source and target have the same patients. That is the score of a perfect
  source model and not a bound: a biased model may exceed it.
"""

FOOTNOTE = (
    "DSC with its 95 % interval; families: mean DSC. rank: those that a method may have, and a letter: same"
    " letter, not told apart (paired t, Holm). recov.: share of the"
    " gap to the oracle that is closed. harm: share of patients who lose more than"
    f" {CONSTANTS.harm:.2f} DSC against source-only. FP: share of the structures absent from the reference that were"
    " drawn all the same. sec: seconds per case. fail: cases without a usable prediction, scored 0. Annotation targets"
    f" do not rank methods without target labels. {_ORACLE}"
)
