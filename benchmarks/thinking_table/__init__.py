"""The reasoning half of the findings table: does a thought help where one pass fails, and does reinforcement mend it?

``records`` says what an arm is and lists them, ``rows`` makes what they are trained on, ``training`` trains one,
``scoring`` asks it walks, ``running`` is an arm from its start to its result, ``claims`` are the claims as
data, ``report`` judges and writes.
"""
