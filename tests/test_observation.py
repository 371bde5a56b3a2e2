"""An observation counts what is known of each cell, and nothing else."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import Predictive
from numpyro.infer.util import log_density

from bayeshybrid import sites
from bayeshybrid.faults import DataError, ModelError
from bayeshybrid.observation import Measured, observe
from bayeshybrid.tails import log_between, log_cdf, log_normal_between, log_normal_cdf, log_sf

scipy_stats = pytest.importorskip("scipy.stats")
yes = np.array


def site_of(statement, key=0):
    return handlers.trace(handlers.seed(statement, key)).get_trace()["y"]


def density_of(statement):
    site = site_of(statement)
    return site["fn"].log_prob(site["value"])


def test_log_normal_cdf_agrees_with_scipy_far_out():
    z = np.array([-1e5, -300.0, -20.1, -19.9, -8.0, -1.0, 0.0, 3.0, 9.0])
    np.testing.assert_allclose(log_normal_cdf(z), scipy_stats.norm.logcdf(z), rtol=1e-11)


@pytest.mark.parametrize("z", [-1e12, -1e8, -50.0, -20.0, -5.0, 2.0, 40.0])
def test_the_gradient_of_the_tail_is_the_inverse_mills_ratio(z):
    ratio = jax.grad(log_normal_cdf)(z)
    expected = -z if z < -1e6 else np.exp(scipy_stats.norm.logpdf(z) - scipy_stats.norm.logcdf(z))
    np.testing.assert_allclose(ratio, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (30.0, 31.0), (-41.0, -40.0), (-np.inf, 1.0), (5.0, np.inf)]
)
def test_log_normal_between_on_both_sides(low, high):
    flip = low + high > 0
    a, b = (-high, -low) if flip else (low, high)
    expected = scipy_stats.norm.logcdf(b) + np.log1p(
        -np.exp(scipy_stats.norm.logcdf(a) - scipy_stats.norm.logcdf(b))
    )
    np.testing.assert_allclose(log_normal_between(low, high), expected, rtol=1e-9)


def test_a_narrow_interval_is_density_times_width():
    width = 1e-9
    np.testing.assert_allclose(
        log_normal_between(7.0, 7.0 + width), scipy_stats.norm.logpdf(7.0) + np.log(width), rtol=1e-6
    )
    assert log_normal_between(1.0, 1.0) == -np.inf
    assert jnp.isfinite(jax.grad(log_normal_between)(1.0, 1.0))


BASES = [
    (dist.Normal(0.5, 2.0), scipy_stats.norm(0.5, 2.0)),
    (dist.LogNormal(0.5, 0.7), scipy_stats.lognorm(0.7, scale=np.exp(0.5))),
    (dist.StudentT(4.0, 0.5, 2.0), scipy_stats.t(4.0, 0.5, 2.0)),
    (dist.Exponential(2.0), scipy_stats.expon(scale=0.5)),
    (dist.Weibull(1.5, 2.0), scipy_stats.weibull_min(2.0, scale=1.5)),
    (dist.Gamma(2.0, 3.0), scipy_stats.gamma(2.0, scale=1 / 3.0)),
    (dist.HalfNormal(1.3), scipy_stats.halfnorm(scale=1.3)),
    (
        dist.TransformedDistribution(dist.Normal(0.0, 1.0), dist.transforms.AffineTransform(1.0, -2.0)),
        scipy_stats.norm(1.0, 2.0),
    ),
]


@pytest.mark.parametrize(("base", "exact"), BASES, ids=lambda b: type(b).__name__)
def test_each_kind_of_cell_has_its_probability(base, exact):
    wanted = jnp.array(True)
    low, high = jnp.array(0.8), jnp.array(1.9)
    np.testing.assert_allclose(log_cdf(base, low, wanted), exact.logcdf(0.8), rtol=1e-8)
    np.testing.assert_allclose(log_sf(base, low, wanted), exact.logsf(0.8), rtol=1e-8)
    expected = np.log(exact.cdf(1.9) - exact.cdf(0.8))
    np.testing.assert_allclose(log_between(base, low, high, wanted), expected, rtol=1e-8)


def measured_model(y=None, **marks):
    center = numpyro.sample("center", dist.Normal())
    spread = numpyro.sample("spread", dist.HalfNormal())
    observe("y", dist.LogNormal(center, spread), obs=y, unit="mg/L", **marks)


MARKS = {
    "missing": True,
    "left": yes([False, False, True, False, False]),
    "right": yes([False, False, False, True, False]),
    "upper": yes([np.nan, np.nan, np.nan, np.nan, 0.6]),
}
VALUES = yes([1.0, np.nan, 2.0, 3.0, 0.5])


def test_the_log_probability_of_mixed_cells_equals_the_sum_by_hand():
    exact = scipy_stats.lognorm(0.5, scale=np.exp(0.1))
    by_hand = [exact.logpdf(1), 0.0, exact.logcdf(2), exact.logsf(3), np.log(exact.cdf(0.6) - exact.cdf(0.5))]
    model = handlers.substitute(
        lambda: measured_model(VALUES, **MARKS), data={"center": jnp.array(0.1), "spread": jnp.array(0.5)}
    )
    site = site_of(model)
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), by_hand, rtol=1e-9)
    assert site["fn"].kinds(site["value"]).tolist() == [0, 1, 2, 3, 4]
    assert site["fn"].base.support is dist.constraints.positive
    assert np.isfinite(site["value"]).all()
    assert sites.read(site) == sites.Tag("y", unit="mg/L", kind="observation")


@pytest.mark.parametrize(("center", "spread"), [(-40.0, 1e-3), (0.0, 1e-6), (40.0, 1e-3), (1.0, 30.0)])
def test_gradients_are_finite_however_wrong_the_parameters(center, spread):
    def density(center, spread, y):
        return log_density(measured_model, (y,), MARKS, {"center": center, "spread": spread})[0]

    value, gradient = jax.jit(jax.value_and_grad(density, (0, 1)))(center, spread, VALUES)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_missing_cells_have_no_influence_at_all():
    def density(values):
        return log_density(measured_model, (values,), {"missing": True}, {"center": 0.1, "spread": 0.5})[0]

    full = log_density(measured_model, (yes([1.0, 2.0]),), {}, {"center": 0.1, "spread": 0.5})[0]
    np.testing.assert_allclose(density(yes([1.0, np.nan, 2.0])), full)
    assert jax.grad(density)(jnp.array([1.0, jnp.nan, 2.0]))[1] == 0.0


def test_without_data_the_site_is_the_quantity_itself():
    draws = Predictive(lambda: measured_model(None, **MARKS), num_samples=5)(jax.random.key(0))
    assert draws["y"].shape == (5,)
    assert isinstance(site_of(lambda: measured_model(None, **MARKS))["fn"], dist.LogNormal)


def test_plates_masks_scales_and_subsamples_leave_the_sum_right():
    def model(y):
        with numpyro.plate("n", 5), handlers.mask(mask=yes([True, True, True, False, True])):
            observe("y", dist.Normal(0.0, 1.0), obs=y, missing=True, left=MARKS["left"])

    site = site_of(lambda: model(VALUES))
    log_prob = site["fn"].log_prob(site["value"])
    assert log_prob.shape == (5,)
    assert log_prob[1] == 0.0
    assert log_prob[3] == 0.0
    total = log_density(handlers.scale(model, scale=2.0), (VALUES,), {}, {})[0]
    np.testing.assert_allclose(total, 2.0 * log_prob.sum())


@pytest.mark.slow
@pytest.mark.rank_promotion_allowed("numpyro's ExpandedDistribution hands its base a value of higher rank")
def test_measured_passes_through_transformations_as_a_pytree():
    fn = Measured(
        dist.Normal(jnp.zeros(3), 1.0), missing=yes([True, False, False]), upper=yes([np.nan, 2.0, np.nan])
    )
    back = jax.jit(lambda d: d)(fn)
    value = jnp.array([0.3, 1.0, 0.2])
    np.testing.assert_allclose(back.log_prob(value), fn.log_prob(value))
    assert back.expand((2, 3)).log_prob(value).shape == (2, 3)
    np.testing.assert_allclose(back.mean, np.zeros(3))
    assert back.sample(jax.random.key(0), (4,)).shape == (4, 3)
    many = jax.vmap(
        lambda loc: Measured(dist.Normal(loc, 1.0), left=yes([True, False])).log_prob(jnp.ones(2))
    )
    assert many(jnp.arange(4.0)).shape == (4, 2)


@pytest.mark.rank_promotion_allowed("numpyro's MultivariateNormal subtracts its mean without aligning it")
def test_independent_cells_count_one_by_one_and_multivariate_events_as_a_whole():
    values = yes([[1.0, np.nan], [2.0, 3.0]])
    independent = site_of(
        lambda: observe("y", dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(1), obs=values, missing=True)
    )
    expected = scipy_stats.norm.logpdf([[1.0, np.inf], [2.0, 3.0]])
    expected[0, 1] = 0.0
    np.testing.assert_allclose(independent["fn"].log_prob(independent["value"]), expected.sum(1))
    events = yes([[np.nan, np.nan], [2.0, 3.0]])
    joint = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))
    site = site_of(lambda: observe("y", joint, obs=events, missing=True))
    np.testing.assert_allclose(site["fn"].log_prob(site["value"]), [0.0, joint.log_prob(events[1])])
    assert site["fn"].kinds(events).tolist() == [1, 0]
    with pytest.raises(ModelError, match="cannot be censored; only whole events can be missing"):
        site_of(lambda: observe("y", joint, obs=events, left=yes([True, False])))


def test_contradicting_bounds_are_marked_and_impossible():
    fn = Measured(
        dist.Normal(0.0, 1.0), left=yes([True, False]), right=yes([True, False]), upper=yes([np.nan, 0.5])
    )
    assert fn.kinds(yes([0.0, 1.0])).tolist() == [-1, -1]
    assert (fn.log_prob(yes([0.0, 1.0])) == -np.inf).all()


@pytest.mark.parametrize(
    ("data", "batch"),
    [
        ((4,), (4, 1)),
        ((4, 1), (4,)),
        ((4, 1), (4, 4)),
        ((4, 3), (4, 1)),
        ((4,), (2, 4)),
        ((), (4,)),
        ((4,), (1, 1)),
    ],
)
def test_data_are_never_enlarged(data, batch):
    with pytest.raises(DataError) as caught:
        site_of(lambda: observe("y", dist.Normal(jnp.zeros(batch), 1.0), obs=np.zeros(data)))
    assert str(data) in str(caught.value)
    assert str(batch) in str(caught.value)
    assert "every value with every other" in str(caught.value)


@pytest.mark.parametrize(
    ("data", "batch"), [((4,), ()), ((4,), (4,)), ((5, 4), (4,)), ((4, 1), (4, 1)), ((2, 3), ())]
)
def test_what_repeats_along_whole_leading_axes_is_allowed(data, batch):
    site = site_of(lambda: observe("y", dist.Normal(jnp.zeros(batch), jnp.ones(batch)), obs=np.zeros(data)))
    assert jnp.shape(site["value"]) == data


def test_plates_count_in_the_comparison_of_shapes():
    def model(y, batch):
        with numpyro.plate("rows", 4, dim=-2), numpyro.plate("columns", 3, dim=-1):
            observe("y", dist.Normal(jnp.zeros(batch), 1.0), obs=y)

    for batch in [(), (4, 1), (3,), (4, 3)]:
        site_of(lambda batch=batch: model(np.zeros((4, 3)), batch))
    with pytest.raises(DataError, match=r"the data have shape \(3,\), the distribution \(4, 3\)"):
        site_of(lambda: model(np.zeros(3), ()))
    with pytest.raises(ModelError, match="the plates around it"):
        site_of(lambda: model(np.zeros((4, 3)), (5,)))


@pytest.mark.parametrize(
    ("statement", "error", "message"),
    [
        (lambda: observe("y", dist.Normal(), obs=np.zeros(3), left=yes([True])), DataError, "left has shape"),
        (lambda: observe("y", dist.Normal(), obs=np.zeros((3, 2)), labels=("a",)), ModelError, "1 labels"),
        (lambda: observe("y", dist.Normal(), obs=1.0, across="site"), ModelError, "one value only"),
        (
            lambda: observe("y", dist.Normal(), obs={"values": yes([1.0])}, left=yes([True])),
            ModelError,
            "left= stands beside a mapping of data",
        ),
        (
            lambda: observe("y", dist.Normal(), obs={"values": yes([1.0]), "below": yes([True])}),
            DataError,
            "the mapping of data holds 'below'; its entries are 'values' and any of 'missing', 'left'",
        ),
        (lambda: observe("y", dist.Normal(), obs={"missing": yes([True])}), DataError, "lacks 'values'"),
        (
            lambda: observe("y", dist.Normal(), obs={"values": np.zeros(3), "missing": yes([True])}),
            DataError,
            "missing has shape",
        ),
        (
            lambda: observe("y", dist.VonMises(0.0, 1.0), obs=np.zeros(1), upper=yes([1.0])),
            ModelError,
            "has no cumulative distribution function",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(statement, error, message):
    with pytest.raises(error, match=message):
        density_of(statement)


def test_a_mapping_says_what_the_marks_beside_it_would_say():
    apart = site_of(
        lambda: observe("y", dist.LogNormal(0.1, 0.5), obs=VALUES, **{**MARKS, "missing": np.isnan(VALUES)})
    )
    joint = {"values": VALUES, **MARKS, "missing": np.isnan(VALUES)}
    together = site_of(lambda: observe("y", dist.LogNormal(0.1, 0.5), obs=joint, across="subject"))
    np.testing.assert_array_equal(together["value"], apart["value"])
    np.testing.assert_array_equal(
        together["fn"].log_prob(together["value"]), apart["fn"].log_prob(apart["value"])
    )
    assert sites.read(together) == sites.Tag("y", kind="observation", across="subject")
    bare = site_of(lambda: observe("y", dist.Normal(), obs={"values": np.zeros(3)}))
    assert isinstance(bare["fn"], dist.Normal)


class Walk(dist.Distribution):
    """A random walk along one event whose cells can be missing one by one."""

    support = dist.constraints.real_vector
    pytree_data_fields = ("gone",)

    def __init__(self, gone):
        self.gone = gone
        super().__init__(gone.shape[:-1], gone.shape[-1:])

    def without(self, missing):
        return Walk(self.gone | missing)

    def log_prob(self, value, intermediates=None):
        steps = jnp.where(self.gone, 0.0, value)
        return -jnp.sum(jnp.square(jnp.diff(steps)), axis=-1)


def test_noise_with_memory_can_miss_single_cells():
    values = yes([[1.0, np.nan, 2.0], [np.nan, 0.5, 1.0]])
    walk = Walk(np.zeros((2, 3), bool))
    site = site_of(lambda: observe("y", walk, obs={"values": values, "missing": np.isnan(values)}))
    assert site["fn"].log_prob(site["value"]).tolist() == [-5.0, -0.5]
    assert site["fn"].kinds(site["value"]).tolist() == [[0, 1, 0], [1, 0, 0]]
    joint = site_of(lambda: observe("y", walk.to_event(1), obs=values, missing=True))
    assert joint["fn"].log_prob(joint["value"]) == -5.5
    with pytest.raises(ModelError, match="cannot be censored"):
        site_of(lambda: observe("y", walk, obs=values, left=np.isnan(values)))


def test_marks_of_whole_events_count_for_each_of_their_cells():
    pairs = dist.Normal(np.zeros((3, 2)), 1.0).to_event(1)
    values = {"values": np.ones((3, 2)), "missing": yes([False, True, False])}
    site = site_of(lambda: observe("y", pairs, obs=values))
    assert site["fn"].kinds(site["value"]).tolist() == [[0, 0], [1, 1], [0, 0]]


@pytest.mark.slow
def test_an_interval_may_begin_where_the_support_does():
    """Between nothing and the limit is what below the limit means for a quantity that is positive."""

    def density(center, spread):
        between = Measured(dist.LogNormal(center, spread), upper=yes([0.4]))
        return between.log_prob(yes([0.0]))[0]

    value, slopes = jax.value_and_grad(density, (0, 1))(-0.3, 0.7)
    np.testing.assert_allclose(value, scipy_stats.lognorm(0.7, scale=np.exp(-0.3)).logcdf(0.4))
    below = Measured(dist.LogNormal(-0.3, 0.7), left=yes([True])).log_prob(yes([0.4]))[0]
    np.testing.assert_allclose(value, below)
    assert np.isfinite(slopes).all()


def test_single_precision_stays_single():
    with jax.enable_x64(False):
        fn = Measured(
            dist.Normal(jnp.float32(0.0), 1.0), left=yes([True]), upper=np.array([np.nan], np.float32)
        )
        assert fn.log_prob(jnp.ones(1, jnp.float32)).dtype == jnp.float32
