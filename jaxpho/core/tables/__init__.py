"""Tables of scale-free Sersic mixtures, the script that makes them and their exact reference.

What they are good for, as printed by ``python -m jaxpho.core.tables.accuracy``: the largest
errors against the exact profile, blurred by a Gaussian PSF and integrated over pixels, for rhalf
of .5 to 8 PSF sigma and axis ratios 1, .5 and .2. The last four columns are the biases of
noiseless least-squares fits of ln flux, index, ln rhalf and axis ratio.

| table | n | residual/peak | flux in 2 rhalf | ln flux | n | ln rhalf | q |
|---|---|---|---|---|---|---|---|
| k8 | .3-.5 | 6.7e-04 | 3.0e-04 | 4.3e-04 | 3.9e-03 | 1.1e-03 | 5.0e-05 |
| k8 | .5-6 | 2.1e-03 | 8.8e-04 | 3.2e-03 | 2.9e-02 | 7.8e-03 | 5.5e-04 |
| k8 | 6-8 | 2.4e-03 | 8.0e-04 | 5.6e-03 | 2.9e-01 | 1.1e-02 | 2.3e-03 |
| k10 | .3-.5 | 6.6e-04 | 3.4e-04 | 2.7e-04 | 3.9e-03 | 1.1e-03 | 4.8e-05 |
| k10 | .5-6 | 6.0e-04 | 2.7e-04 | 6.8e-04 | 1.7e-02 | 1.6e-03 | 2.0e-04 |
| k10 | 6-8 | 7.6e-04 | 2.4e-04 | 9.9e-04 | 1.6e-02 | 2.9e-03 | 1.8e-04 |
| k12 | .3-.5 | 3.8e-04 | 2.3e-04 | 2.7e-04 | 2.9e-03 | 8.6e-04 | 3.7e-05 |
| k12 | .5-6 | 2.0e-04 | 9.9e-05 | 2.1e-04 | 1.7e-03 | 5.4e-04 | 3.1e-05 |
| k12 | 6-8 | 2.1e-04 | 7.1e-05 | 2.5e-04 | 6.0e-03 | 7.0e-04 | 9.9e-05 |
| k16 | .3-.5 | 3.2e-04 | 1.5e-04 | 1.5e-04 | 2.2e-03 | 5.9e-04 | 3.0e-05 |
| k16 | .5-6 | 6.8e-05 | 2.8e-05 | 4.1e-05 | 4.9e-04 | 1.2e-04 | 1.2e-05 |
| k16 | 6-8 | 9.5e-05 | 9.3e-06 | 5.9e-05 | 1.1e-03 | 1.5e-04 | 2.4e-05 |

The worst biases in n belong to unresolved galaxies (rhalf = .5 PSF sigma) of high n, whose index is
read off their faint wings. For a PSF narrower than `jaxpho.core.sersic.DESIGN_BLUR` times
rhalf/sqrt(q) the inner cusp is softened and these figures do not hold. Some amplitudes are slightly
negative (down to -.002 for k12); below n = .5 (profiles flatter than a Gaussian) they have
both signs, up to 15, and cancel.
"""
