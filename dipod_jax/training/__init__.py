"""The composition: rollout, advantages, learner, evaluation and the loop around them."""
