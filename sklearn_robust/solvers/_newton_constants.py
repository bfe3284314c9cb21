"""Constants that the Newton methods on the robust risk share, for l_q balls and for conic sets."""

# Levenberg's damping, as a share of the Hessian's diagonal
LEAST_DAMPING = 1e-10  # the first damping, and the least to which accepted steps lower it
MOST_DAMPING = 1e4  # the method ends above it
DAMPING_AFTER_FAILURE = 1e-6  # least damping after a failed step
DAMPING_RAISE = 100  # factor on the damping after a failed step
DAMPING_CUT = 10  # divisor of the damping after an accepted step

# Decreases of the log-risk that a model predicts, absolute
LONG_STEP_DECREASE = 0.1  # above it the line search tries longer steps than the model's
CLOSE_DECREASE = 0.03  # up to it the model's weights may certify the risk, and exact faces pay
# below it the rounding of the log-risk hides the decrease: the line search tolerates that rounding
HIDDEN_DECREASE = 1e-8
ROUNDING_DECREASE = 1e-14  # up to it the decrease is rounding alone, and the method ends

# The line search along the model's step
SUFFICIENT_DECREASE = 1e-3  # share of the predicted decrease that a step must bring
LEAST_STEP = 1e-6  # relative to the first step; the search fails below it
MOST_STEP = 1024.0  # relative to the first step; the search doubles the step up to it
MOST_MARGIN_CHANGE = 1e3  # change of a margin in the first step, relative to 1 + the largest margin

# Curvature over total weight, up to which a step would be too long: a larger curvature replaces it
FLAT_CURVATURE = 1e-6
