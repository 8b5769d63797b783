"""The adaptive part of the findings table: which thoughts are worth teaching, and when to think at all (MMEmb-R1).

``records`` says what an arm is and lists them, ``rows`` makes the mix that they are trained on and asked, ``selecting``
chooses thoughts, ``training`` trains an arm, ``scoring`` asks it, ``running`` is an arm from its start to its result,
``claims`` are the claims as data, ``judging`` judges them, ``report`` writes.
"""
