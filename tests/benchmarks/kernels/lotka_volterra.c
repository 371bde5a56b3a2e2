/* Value and gradient of the Lotka-Volterra row by the shortest way: forward sensitivities carried beside the two
   states, the fifth-order method of Dormand and Prince, a fixed number of steps between two years.
   The unknowns are logarithms: birth, eaten, death, growth, start (hare, lynx), noise (hare, lynx). */
#include <math.h>

enum { UNKNOWNS = 8, COLUMNS = 6, SIZE = 2 + 2 * COLUMNS, STAGES = 6 };

static const double A[STAGES][STAGES] = {
    {0},
    {1.0 / 5},
    {3.0 / 40, 9.0 / 40},
    {44.0 / 45, -56.0 / 15, 32.0 / 9},
    {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
    {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
};
static const double B[STAGES] = {35.0 / 384, 0, 500.0 / 1113, 125.0 / 192, -2187.0 / 6784, 11.0 / 84};

static void slope(const double *restrict y, const double *restrict rates, double *restrict out) {
  const double hare = y[0], lynx = y[1], *of_hare = y + 2, *of_lynx = y + 2 + COLUMNS;
  const double a = rates[0] - rates[1] * lynx, b = -rates[1] * hare;
  const double c = rates[3] * lynx, d = rates[3] * hare - rates[2];
  out[0] = a * hare;
  out[1] = d * lynx;
  for (int i = 0; i < COLUMNS; i++) {
    out[2 + i] = a * of_hare[i] + b * of_lynx[i];
    out[2 + COLUMNS + i] = c * of_hare[i] + d * of_lynx[i];
  }
  out[2] += hare;
  out[3] -= lynx * hare;
  out[2 + COLUMNS + 2] -= lynx;
  out[2 + COLUMNS + 3] += hare * lynx;
}

static void year(double *restrict y, const double *restrict rates, int steps) {
  const double h = 1.0 / steps;
  for (int step = 0; step < steps; step++) {
    double k[STAGES][SIZE], at[SIZE];
    slope(y, rates, k[0]);
    for (int s = 1; s < STAGES; s++) {
      for (int i = 0; i < SIZE; i++) {
        double sum = 0;
        for (int r = 0; r < s; r++) sum += A[s][r] * k[r][i];
        at[i] = y[i] + h * sum;
      }
      slope(at, rates, k[s]);
    }
    for (int i = 0; i < SIZE; i++) {
      double sum = 0;
      for (int s = 0; s < STAGES; s++) sum += B[s] * k[s][i];
      y[i] += h * sum;
    }
  }
}

/* log_pelts is (years, 2), the first row at the start; constants are left out of the value. */
double value_and_gradient(const double *q, const double *log_pelts, int years, int steps, double *gradient) {
  static const double mean[4] = {1, 0.05, 1, 0.05}, sd[4] = {0.5, 0.05, 0.5, 0.05};
  double x[UNKNOWNS], y[SIZE] = {0}, value = 0, by[COLUMNS] = {0};
  for (int i = 0; i < UNKNOWNS; i++) x[i] = exp(q[i]);
  for (int i = 0; i < 4; i++) {
    const double z = (x[i] - mean[i]) / sd[i];
    value += q[i] - 0.5 * z * z;
    gradient[i] = 1 - x[i] * z / sd[i];
  }
  for (int k = 0; k < 2; k++) {
    const double z = q[4 + k] - log(10.0), w = q[6 + k] + 1;
    value -= 0.5 * (z * z + w * w);
    gradient[4 + k] = -z;
    gradient[6 + k] = -w;
  }
  y[0] = x[4];
  y[1] = x[5];
  y[2 + 4] = 1;
  y[2 + COLUMNS + 5] = 1;
  for (int n = 0; n < years; n++) {
    if (n > 0) year(y, x, steps);
    for (int k = 0; k < 2; k++) {
      const double z = (log_pelts[2 * n + k] - log(y[k])) / x[6 + k], weight = z / (x[6 + k] * y[k]);
      value -= 0.5 * z * z + q[6 + k];
      gradient[6 + k] += z * z - 1;
      for (int i = 0; i < COLUMNS; i++) by[i] += weight * y[2 + k * COLUMNS + i];
    }
  }
  for (int i = 0; i < COLUMNS; i++) gradient[i] += x[i] * by[i];
  return value;
}

/* Many gradients, one after the other, over a list of points; the sum keeps them from being left out. */
double many(const double *q, int points, int count, const double *log_pelts, int years, int steps) {
  double sum = 0, gradient[UNKNOWNS];
  for (int n = 0; n < count; n++)
    sum += value_and_gradient(q + UNKNOWNS * (n % points), log_pelts, years, steps, gradient) + gradient[0];
  return sum;
}
