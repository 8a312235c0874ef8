"""The limited memory of L-BFGS-B: the last pairs, and the compact form of the model that they make.

    B = theta I - U'CU,   rows of U: the last pairs s = x+ - x, y = g+ - g

(Byrd, Nocedal & Schnabel 1994, Math. Program. 63, theorem 2.3). U, 2 m vectors, is nearly all that an iteration reads:
once for its products with the path and with a new pair, once for the Newton step, so at 1.5 million variables an
iteration takes about as long as memory takes to deliver U twice. Everything else here is small and on the host.
"""

import torch
from torch import Tensor

AT_ONCE = 1 << 16  # variables, on a CPU: what they take stays in the cache
AT_ONCE_ELSEWHERE = 1 << 20  # few kernels, and bounded temporaries


class IndefiniteError(Exception):
    """A matrix that is positive definite in exact arithmetic is not: the pairs are of no more use."""


class Pairs:
    """The last pairs (s, y), and the model's B = theta I - U'CU (Byrd, Nocedal & Schnabel 1994, theorem 2.3).

    Slot k keeps its y in row 2k of U and its s in row 2k + 1; a new pair takes the slot of the oldest. On the
    host, by rows of U: C, and the rows' inner products over the variables that the last Cauchy point left
    free and over those it holds. Of the latter, only those of the s's with each other and with older y's are
    right, and read.
    """

    def __init__(self, size: int, like: Tensor) -> None:
        self._all_rows = like.new_empty(2 * size, like.numel())
        self._columns = like.new_empty(4, len(like[parts(like)[0]]))
        self.free, self._free_before, self._change = like.new_ones(3, like.numel())  # 1 where free, else 0
        self.forget()

    def forget(self) -> None:
        size = len(self._all_rows)
        self.theta = 1.0
        self.compact = torch.zeros(0, 0, dtype=torch.float64)  # C
        self._slots: list[int] = []  # from the oldest pair to the newest
        self._curvatures = torch.zeros(size // 2, dtype=torch.float64)  # s'y by slot
        self._over_free, self._over_held = torch.zeros(2, size, size, dtype=torch.float64)
        self._is_new = False  # the newest pair's inner products are still to be formed

    @property
    def count(self) -> int:
        return len(self._slots)

    @property
    def rows(self) -> Tensor:
        """U."""
        return self._all_rows[: 2 * self.count]

    def add(self, direction: Tensor, step: float, gradient: Tensor, before: Tensor, curvature: float) -> None:
        """Keep s = step * direction and y = gradient - before, where s'y = curvature > 0."""
        slot = self._slots.pop(0) if 2 * self.count == len(self._all_rows) else self.count
        self._slots.append(slot)
        y, s = self._all_rows[2 * slot : 2 * slot + 2]
        torch.sub(gradient, before, out=y)
        torch.mul(direction, step, out=s)
        self.theta = dot(y, y) / curvature
        self._curvatures[slot] = curvature
        self._is_new = True

    def path_products(self, gradient: Tensor, times: Tensor, after: float = 0.0) -> tuple[Tensor, float]:
        """U d and d'd, d = -gradient where times > after, else 0; takes in a new pair on the same pass."""
        y, s = self._all_rows[2 * self._slots[-1] :][:2]
        products = torch.zeros(4 if self._is_new else 1, 2 * self.count, dtype=torch.float64, device=s.device)
        square = torch.zeros((), dtype=torch.float64, device=s.device)
        for part in parts(times):
            columns = self._columns[: len(products), : len(times[part])]
            torch.gt(times[part], after, out=columns[0]).mul_(gradient[part])
            if self._is_new:
                torch.mul(s[part], self.free[part], out=columns[1])
                torch.mul(y[part], self.free[part], out=columns[2])
                torch.sub(s[part], columns[1], out=columns[3])
            square += columns[0].double() @ columns[0].double()
            products.addmm_(columns.double(), self.rows[:, part].double().T)
        if self._is_new:
            self._is_new = False
            self._take_in(products[1:].cpu())
        return -products[0], float(square)

    def _take_in(self, products: Tensor) -> None:
        """Keep U times the new (s free, y free, s held), and form C.

        With s scaled by theta, C^-1 = [-D, L'; L, theta S'S], where L + D is the lower triangle of S'Y.
        """
        y, used = 2 * self._slots[-1], 2 * self.count
        for matrix, row, values in (
            (self._over_free, y + 1, products[0]),
            (self._over_free, y, products[1]),
            (self._over_held, y + 1, products[2]),
        ):
            matrix[row, :used] = values
            matrix[:used, row] = values
        d, (_, sy, ss) = self._curvatures[self._slots], self._blocks(self._over_free + self._over_held)
        self.compact = self._saddle_inverse(torch.diag(d), sy.tril(-1), self.theta * ss)

    def set_free(self, times: Tensor, last_break: float) -> None:
        """Let the variables with times > last_break be the free ones."""
        self.free, self._free_before = self._free_before, self.free
        torch.gt(times, last_break, out=self.free)
        if self.count:
            torch.sub(self.free, self._free_before, out=self._change)
            for index in torch.split(self._change.nonzero().squeeze(1), AT_ONCE):
                columns = self.columns(index)
                products = ((columns * self._change[index].double()) @ columns.T).cpu()
                self._over_free[: len(products), : len(products)] += products
                self._over_held[: len(products), : len(products)] -= products

    def columns(self, index: Tensor) -> Tensor:
        """These columns of U, in float64."""
        return self.rows.gather(1, index.expand(2 * self.count, -1)).double()

    def newton_coefficients(self, moved: Tensor, slope: float, products: Tensor) -> Tensor:
        """q, with which the model is least over the free variables at x + (U'q - g) / theta.

        At the Cauchy point x + v, at time t, the model's gradient over the free variables is

            r = slope g - U'C moved,   slope = 1 - theta t,   moved = U v,

        and products = U d with d = -g where free, else 0. By Sherman, Morrison and Woodbury

            q = C moved - K U r / theta,
            K^-1 = [-D - Y'ZZ'Y / theta, (L_a - R_z)'; L_a - R_z, theta S'AA'S]   (s scaled by theta),

        with Z the free and A the held columns, L_a the strict lower triangle of S'AA'Y and R_z the upper of
        S'ZZ'Y (Byrd et al. 1995, section 5.1; K as in Algorithm 778).
        """
        free_yy, free_sy, _ = self._blocks(self._over_free)
        _, held_sy, held_ss = self._blocks(self._over_held)
        a = torch.diag(self._curvatures[self._slots]) + free_yy / self.theta
        k = self._saddle_inverse(a, held_sy.tril(-1) - free_sy.triu(), self.theta * held_ss)
        q: Tensor = self.compact @ moved
        q += k @ (slope * products + self._over_free[: len(q), : len(q)] @ q) / self.theta
        return q

    def _blocks(self, matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The blocks y'y, s'y and s's, from the oldest pair to the newest."""
        y = 2 * torch.tensor(self._slots)[:, None]
        return matrix[y, y.T], matrix[y + 1, y.T], matrix[y + 1, y.T + 1]

    def _saddle_inverse(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """[-A, B'; B, C]^-1 over (y, theta s) from the oldest to the newest, brought to the rows of U.

        Raises IndefiniteError unless A and C + B A^-1 B' are positive definite.
        """
        root, failed = torch.linalg.cholesky_ex(a)
        half = torch.linalg.solve_triangular(root, b.T, upper=False)
        schur_root, schur_failed = torch.linalg.cholesky_ex(c + half.T @ half)
        if int(failed) or int(schur_failed):
            raise IndefiniteError
        ratio = torch.cholesky_solve(b.T, root)  # A^-1 B'
        lower_right = torch.cholesky_inverse(schur_root)
        upper_right = ratio @ lower_right
        y = 2 * torch.tensor(self._slots)[:, None]
        inverse = torch.empty(2 * self.count, 2 * self.count, dtype=a.dtype)
        inverse[y, y.T] = upper_right @ ratio.T - torch.cholesky_inverse(root)
        inverse[y, y.T + 1] = self.theta * upper_right
        inverse[y + 1, y.T] = self.theta * upper_right.T
        inverse[y + 1, y.T + 1] = self.theta**2 * lower_right
        return inverse


def parts(vector: Tensor) -> list[slice]:
    size = AT_ONCE if vector.device.type == "cpu" else AT_ONCE_ELSEWHERE
    return [slice(first, first + size) for first in range(0, len(vector), size)]


def largest(vector: Tensor) -> Tensor:
    """max_i |v_i|; nan where one is."""
    return torch.stack(torch.aminmax(vector)).abs().max()


def dot(a: Tensor, b: Tensor) -> float:
    return float(a.double() @ b.double())
