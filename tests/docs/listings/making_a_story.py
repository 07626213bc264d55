from llm_numba.train.stories import make_story

story = make_story(seed=7, chapters=2)
print(story.text)
for question in story.questions:
    print(question.text, question.answer)
