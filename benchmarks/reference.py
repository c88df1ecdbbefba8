"""The kernel as plain loops: what times on different machines are compared by.

chi2 and its gradient by the six numbers of every Gaussian in every exposure, compiled by numba
for one thread in float32, with the exact second-order pixel term and no culling. It was written
once, with the analytic derivatives, and is not tuned: a ratio to it, taken in one process, means
something on another machine, where nanoseconds do not.
"""

import math

import numba
import numpy as np

f4 = np.float32


@numba.njit(fastmath=False, error_model="numpy")
def chi2_and_gradient(gauss, exposure, x, y, data, ierr):
    """chi2 and d chi2 / d Gaussians.

    Parameters
    ----------
    gauss : ndarray
        [E, 6, G] flux, x, y, cxx, cyy, cxy in pixels.
    exposure : ndarray
        [B] exposure of each block of pixels.
    x, y, data, ierr : ndarray
        [B, N] pixels: positions, values, inverse errors (0: masked).

    Returns
    -------
    float
        chi2, summed in double precision.
    ndarray
        [E, 6, G] its derivatives.
    """
    n_exposures, _, n_gauss = gauss.shape
    gradient = np.zeros((n_exposures, 6, n_gauss), np.float32)
    chi2 = 0.0
    # of each Gaussian: precision and amplitude; of the pixel: exponential, factor, projections
    work = np.empty((8, n_gauss), np.float32)
    fxx, fyy, fxy, amplitude = work[0], work[1], work[2], work[3]
    shape, factor, vx, vy = work[4], work[5], work[6], work[7]
    slope = np.zeros((6, n_gauss), np.float32)
    half, one, two = f4(0.5), f4(1.0), f4(2.0)
    small, turn = f4(1.0 / 24.0), f4(1.0 / (2.0 * math.pi))
    for b in range(len(exposure)):
        g = gauss[exposure[b]]
        for k in range(n_gauss):
            det = one / (g[3, k] * g[4, k] - g[5, k] * g[5, k])
            fxx[k], fyy[k], fxy[k] = g[4, k] * det, g[3, k] * det, -g[5, k] * det
            amplitude[k] = g[0, k] * math.sqrt(det) * turn
        slope[:] = f4(0.0)
        for p in range(x.shape[1]):
            model = f4(0.0)
            for k in range(n_gauss):
                dx, dy = x[b, p] - g[1, k], y[b, p] - g[2, k]
                vx[k], vy[k] = fxx[k] * dx + fxy[k] * dy, fxy[k] * dx + fyy[k] * dy
                shape[k] = amplitude[k] * math.exp(-half * (dx * vx[k] + dy * vy[k]))
                factor[k] = one + small * (vx[k] * vx[k] + vy[k] * vy[k] - fxx[k] - fyy[k])
                model += shape[k] * factor[k]
            residual = (data[b, p] - model) * ierr[b, p]
            chi2 += residual * residual
            weight = -two * residual * ierr[b, p]
            for k in range(n_gauss):
                u, h = weight * shape[k], factor[k]
                dx, dy = x[b, p] - g[1, k], y[b, p] - g[2, k]
                slope[0, k] += u * h
                ax, ay = fxx[k] * vx[k] + fxy[k] * vy[k], fxy[k] * vx[k] + fyy[k] * vy[k]
                slope[1, k] += u * (vx[k] * h - two * small * ax)
                slope[2, k] += u * (vy[k] * h - two * small * ay)
                # by the elements of the precision matrix; the amplitude's part is added below
                slope[3, k] += u * (small * (two * vx[k] * dx - one) - half * dx * dx * h)
                slope[4, k] += u * (small * (two * vy[k] * dy - one) - half * dy * dy * h)
                slope[5, k] += u * (two * small * (vx[k] * dy + vy[k] * dx) - dx * dy * h)
        out = gradient[exposure[b]]
        for k in range(n_gauss):
            a, c, m = fxx[k], fyy[k], fxy[k]
            sxx = slope[3, k] + half * g[3, k] * slope[0, k]
            syy = slope[4, k] + half * g[4, k] * slope[0, k]
            sxy = slope[5, k] + g[5, k] * slope[0, k]
            out[0, k] += slope[0, k] / g[0, k]
            out[1, k] += slope[1, k]
            out[2, k] += slope[2, k]
            # d(precision) = -F d(covariance) F
            out[3, k] -= sxx * a * a + syy * m * m + sxy * a * m
            out[4, k] -= sxx * m * m + syy * c * c + sxy * c * m
            out[5, k] -= two * sxx * a * m + two * syy * c * m + sxy * (a * c + m * m)
    return chi2, gradient
