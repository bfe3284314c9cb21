from sklearn_robust.attacks.gradient import pgd as apgd
